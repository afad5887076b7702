"""The managers' pages. Each address is open to members of its tenant, and to staff; see `spend.page_access`."""

from django.contrib.auth.views import LoginView, PasswordChangeView
from django.urls import path, register_converter, reverse_lazy
from django.views.decorators.cache import never_cache

from dashboard import views
from dashboard.exports import csv_views
from dashboard.profile import profile
from spend.page_access import strict
from tenants.sign_in.login import SignInForm
from tenants.sign_in.sso import views as sso


class SubjectKindConverter:
    regex = "customer|conversation"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class OneSubjectKindConverter(SubjectKindConverter):
    regex = "customer|conversation|key"


register_converter(SubjectKindConverter, "subject_kind")
register_converter(OneSubjectKindConverter, "one_subject_kind")

new_password = PasswordChangeView.as_view(
    template_name="dashboard/password.html",
    success_url=reverse_lazy("password", query={"changed": "yes"}),
    extra_context={"nav": "profile"},
)

urlpatterns = [
    path("", views.overview, name="overview"),
    path("live/", views.live, name="live"),
    path("overview.csv", csv_views.overview_csv, name="overview_csv"),
    path("find/", views.find, name="find"),
    path(
        "login/",
        strict(LoginView.as_view(template_name="dashboard/login.html", authentication_form=SignInForm)),
        name="login",
    ),
    path("sso/", strict(sso.begin), name="sso"),
    path("sso/callback/", strict(sso.callback), name="sso_callback"),
    path("sso/sign-out/", strict(sso.sign_out_there), name="sso_sign_out"),
    path("password/", strict(never_cache(new_password)), name="password"),
    path("profile/", profile, name="profile"),
    path("logout/", sso.SignOut.as_view(), name="logout"),
    path("tenants/<str:tenant_id>/", views.tenant, name="tenant"),
    path("tenants/<str:tenant_id>/days.csv", csv_views.days_csv, name="days_csv"),
    path("tenants/<str:tenant_id>/hours.csv", csv_views.hours_csv, name="hours_csv"),
    path("tenants/<str:tenant_id>/budgets.csv", csv_views.budgets_csv, name="budgets_csv"),
    path("tenants/<str:tenant_id>/savings.csv", csv_views.savings_csv, name="savings_csv"),
    path("tenants/<str:tenant_id>/tags.csv", csv_views.tags_csv, name="tags_csv"),
    path("tenants/<str:tenant_id>/<subject_kind:kind>s.csv", csv_views.subjects_csv, name="subjects_csv"),
    path("tenants/<str:tenant_id>/<one_subject_kind:kind>/", views.subject, name="subject"),
    path("tenants/<str:tenant_id>/<one_subject_kind:kind>/days.csv", csv_views.subject_csv, name="subject_csv"),
    path("tenants/<str:tenant_id>/<one_subject_kind:kind>/content/", views.subject_content, name="subject_content"),
    path("tenants/<str:tenant_id>/calls/", views.calls, name="calls"),
    path("tenants/<str:tenant_id>/calls.csv", csv_views.calls_csv, name="calls_csv"),
    path("tenants/<str:tenant_id>/calls/<uuid:call_id>/", views.call, name="call"),
    path("tenants/<str:tenant_id>/calls/<uuid:call_id>/content/", views.content, name="content"),
    path("tenants/<str:tenant_id>/statement/", views.statement, name="statement"),
    path("tenants/<str:tenant_id>/ledger.csv", csv_views.entries_csv, name="entries_csv"),
    path("tenants/<str:tenant_id>/focus.csv", csv_views.focus_csv, name="focus_csv"),
]
