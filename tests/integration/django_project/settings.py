"""A minimal Django project on a protected schema. The database is named in the environment.

`default` is the application's role; `owner` owns the tables and runs the migrations:
    django-admin migrate --database owner
"""

import os


def _database(role):
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["DJANGO_DATABASE"],
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        "USER": role,
    }


DATABASES = {
    "default": _database(os.environ["DJANGO_APP_ROLE"]),
    "owner": _database(os.environ["DJANGO_OWNER_ROLE"]),
}
INSTALLED_APPS = ["shop"]
MIDDLEWARE = ["shop.tenancy.TenantMiddleware"]
ROOT_URLCONF = "shop.urls"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "only for tests"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
