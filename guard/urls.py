"""Every address of the guard."""

from django.contrib import admin
from django.urls import include, path, re_path

admin.autodiscover()  # in the order of the apps: our own admin takes back what others' registered

from guard.http.error_pages import API_ADDRESSES, no_such_address  # noqa: E402
from guard.simulation.page import rehearsal_page  # noqa: E402
from guard.simulation.what_if_page import save as save_what_if  # noqa: E402
from guard.simulation.what_if_page import show as show_what_if  # noqa: E402
from guard.telemetry.prometheus import metrics  # noqa: E402
from spend.admin.configuration import configuration_page, export_file  # noqa: E402
from spend.admin.invoices import invoices_page  # noqa: E402

urlpatterns = [
    path("admin/tenants/tenant/<str:tenant_id>/rehearsal/", admin.site.admin_view(rehearsal_page), name="rehearsal"),
    path("admin/configuration/", admin.site.admin_view(configuration_page), name="configuration"),
    path("admin/configuration/export/", admin.site.admin_view(export_file), name="configuration_export"),
    path("admin/invoices/", admin.site.admin_view(invoices_page), name="invoices"),
    path("admin/", admin.site.urls),
    path("", include("guard.chat.urls")),
    path("", include("guard.embeddings.urls")),
    path("", include("guard.responses.urls")),
    path("", include("guard.api.urls")),
    re_path(API_ADDRESSES, no_such_address),
    path("metrics", metrics),
    path("tenants/<str:tenant_id>/what-if/", show_what_if, name="what_if"),
    path("tenants/<str:tenant_id>/what-if/save/", save_what_if, name="save_what_if"),
    path("", include("dashboard.urls")),
]

handler400 = "guard.http.error_pages.bad_request"
handler403 = "guard.http.error_pages.permission_denied"
handler404 = "guard.http.error_pages.page_not_found"
handler500 = "guard.http.error_pages.server_error"
