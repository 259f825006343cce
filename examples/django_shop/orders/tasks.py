"""What is done in the background: one job of django-rq, one task of taskq."""

from django_rq import job

from orders.models import Order
from taskq import task


@job  # as before: it keeps running, now on taskq's engine
def pack(number: int) -> str:
    Order.objects.filter(pk=number).update(packed=True)
    return f"order {number} is packed"


@task
def write_receipt(number: int) -> str:
    order = Order.objects.get(pk=number)
    order.receipt = f"Thank you for ordering {order.item}."
    order.save(update_fields=["receipt"])
    return order.receipt
