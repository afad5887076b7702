"""Why a sign-in at the provider ends before it is one. The tree, with the statuses:

SsoError
    NotBegunHere 400     no sign-in was begun in this browser, or long ago
    TooManyAtOnce 429    others' answers are being checked
    ProviderAway 502     the provider does not answer, or not in its protocol
    ClientRefused 502    the provider does not know the guard
    NotBelieved 403      what came is not the provider's word about this sign-in
    ProviderRefused 403  the provider did not let the person in
    NoRole 403           no group of theirs is a role here
    Deactivated 403      their login here was deactivated
"""


class SsoError(Exception):
    """`title` and `advice` are for the person, {name} in them the provider's; the text is for the log: no secret."""

    status = 403
    title = ""
    advice = ""


class NotBegunHere(SsoError):
    status = 400
    title = "This sign-in was not begun here"
    advice = "It was begun in another browser or another window, was used already, or took too long. Begin it anew."


class TooManyAtOnce(SsoError):
    status = 429
    title = "Too many at once"
    advice = (
        "So many people are signing in right now that yours was not looked at. Wait some seconds, then begin it anew."
    )


class ProviderAway(SsoError):
    status = 502
    title = "{name} does not answer"
    advice = (
        "The guard cannot reach {name}, or does not understand its answer. Try again; if it stays so, tell "
        "whoever runs the guard. Its log says more."
    )


class ClientRefused(SsoError):
    status = 502
    title = "{name} does not know the guard"
    advice = (
        "{name} refused the guard itself, and not you: its client id, secret or address there is not right. "
        "Tell whoever runs the guard."
    )


class NotBelieved(SsoError):
    title = "This answer cannot be trusted"
    advice = (
        "What came back is not what {name} says about this sign-in. Begin it anew; if it stays so, tell "
        "whoever runs the guard. Its log says more."
    )


class ProviderRefused(SsoError):
    title = "{name} did not let you in"
    advice = "You were not signed in there, or did not agree. Begin it anew, or ask whoever looks after {name}."


class NoRole(SsoError):
    title = "You have no role here"
    advice = (
        "{name} knows you, but no group of yours there is a role in the guard. Ask whoever looks after {name} "
        "to add you to one."
    )


class Deactivated(SsoError):
    title = "Your login is deactivated"
    advice = "Your login in the guard was deactivated. Ask an administrator of the guard."
