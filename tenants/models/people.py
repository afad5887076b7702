"""Who a login is at the provider of single sign-on."""

from django.contrib.auth.models import User
from django.db import models


class SsoIdentity(models.Model):
    """Binds a login to a person there: by the provider and its id of them, which never change, not by an address."""

    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="sso_identity")
    issuer = models.CharField(max_length=500, help_text="The provider, as it names itself: the claim iss.")
    subject = models.CharField(max_length=255, help_text="Its id of the person: the claim sub.")
    created_at = models.DateTimeField(auto_now_add=True)
    signed_in_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["user__username"]
        verbose_name = "identity of single sign-on"
        verbose_name_plural = "identities of single sign-on"
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="one_login_a_person")]

    def __str__(self) -> str:
        return f"{self.user} as {self.subject}"
