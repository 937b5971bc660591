"""The tenant of a request or a job: one transaction, whose first statement names the tenant."""

import json
from contextlib import contextmanager

from django.db import Error, connections, models, transaction
from django.http import JsonResponse


class CurrentTenant(models.Func):
    """`tenancy.current_tenant()`, as the default of a tenant column."""

    function = "tenancy.current_tenant"
    output_field = models.CharField()


@contextmanager
def tenant(tenant_id, using="default"):
    """Everything in this block runs in one transaction for one tenant."""
    with transaction.atomic(using=using):
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT tenancy.set_tenant(%s)", [tenant_id])
        yield


def error_detail(error):
    """The JSON object in DETAIL of an error of tenancy, or none. psycopg's own error is the cause of Django's."""
    diag = getattr(error.__cause__, "diag", None)
    try:
        return json.loads(diag.message_detail)
    except (AttributeError, TypeError, ValueError):
        return None


HTTP_STATUS = {"TENANT_CONTEXT_MISSING": 400, "TENANT_ID_INVALID": 400, "TENANT_NOT_FOUND": 404,
               "TENANT_ACCESS_DENIED": 403, "TENANT_SUSPENDED": 403}  # fmt: skip


class TenantMiddleware:
    """Runs each request for the tenant that its header X-Tenant-ID names (trust it from a proxy only)."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        try:
            with tenant(request.headers.get("X-Tenant-ID", "")):
                return self.get_response(request)
        except Error as error:
            detail = error_detail(error)
            if detail is None:
                raise
            return JsonResponse(detail, status=HTTP_STATUS[detail["code"]])

    def process_exception(self, request, exception):
        """Lets a database error reach the block above, which rolls back; Django would answer 500 first."""
        if isinstance(exception, Error) and (detail := error_detail(exception)):
            transaction.set_rollback(True)
            return JsonResponse(detail, status=HTTP_STATUS[detail["code"]])
        return None
