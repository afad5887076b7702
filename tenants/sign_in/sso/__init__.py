"""Single sign-on: people sign in at their own provider, by OpenID Connect.

configured   the settings: who the provider is, and which of its groups are which roles
provider     what is said with it, by Authlib: the way there, and the claims about who came back
people       whose login that is, and which roles it has from now on
views        the three addresses, and what a person reads where it goes wrong
"""
