from django.http import JsonResponse
from django.urls import path

from shop.models import Customer, Order


def orders(request):
    if request.GET.get("move_to"):
        Order.objects.update(tenant_id=request.GET["move_to"])
    if request.GET.get("add"):
        customer, _ = Customer.objects.get_or_create(name="web")
        Order.objects.create(customer=customer, item=request.GET["add"])
    return JsonResponse({"orders": list(Order.objects.order_by("item").values_list("item", flat=True))})


urlpatterns = [path("orders", orders)]
