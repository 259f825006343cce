"""One address: place an order, answer at once, work later."""

from django.http import HttpRequest, JsonResponse
from django.urls import path
from orders.services import place


def order(request: HttpRequest, item: str) -> JsonResponse:
    number, receipt = place(item)
    return JsonResponse({"order": number, "receipt": receipt})


urlpatterns = [path("order/<str:item>/", order)]
