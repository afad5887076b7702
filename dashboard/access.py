"""Who may read what was said, beside `spend.page_access`."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User


def may_read_content(user: User | AbstractBaseUser | AnonymousUser) -> bool:
    """Whether who may see a tenant may read what was said to it too: its members, and staff with the permission.

    Auditors have not, though members they may be.
    """
    return isinstance(user, User) and (not user.is_staff or user.has_perm("spend.read_callcontent"))
