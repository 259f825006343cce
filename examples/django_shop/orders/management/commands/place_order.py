"""manage.py place_order ITEM: place an order and wait for its receipt."""

import shop.queue
from django.core.management.base import BaseCommand

from orders.services import place


class Command(BaseCommand):
    help = "Place an order; with --wait, wait for its receipt."

    def add_arguments(self, parser):
        parser.add_argument("item")
        parser.add_argument("--wait", action="store_true")

    def handle(self, *args, **options):
        number, receipt = place(options["item"])
        self.stdout.write(f"order {number}")
        if options["wait"]:
            self.stdout.write(shop.queue.queue.handle(receipt).result(timeout=15))
