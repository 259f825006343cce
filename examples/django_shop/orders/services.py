"""Placing an order: the jobs go out when the transaction commits."""

import shop.queue  # noqa: F401 (a process that enqueues knows its TaskQ)
from django.db import transaction

from orders.models import Order
from orders.tasks import pack, write_receipt
from taskq.contrib.django import delay_on_commit


@transaction.atomic
def place(item: str) -> tuple[int, str]:
    """Returns the order's number and the id of the job that writes its receipt."""
    order = Order.objects.create(item=item)
    transaction.on_commit(lambda: pack.delay(order.pk))
    handle = delay_on_commit(write_receipt, order.pk)
    return order.pk, handle.id
