"""Where a provider's requests go, and how its key is sent. Pure.

Azure's older way has the deployment, which is the model's upstream name, in the path, and a version of the API behind
it; its Responses API has no deployment in the path. Its newer way, without an API version, is as everybody's.
"""

from urllib.parse import quote, urlencode

from yarl import URL

from guard.providers.dialects import RESPONSES_PATH
from spend.models import ProviderKind
from spend.providers.accounts import Account

EMBEDDINGS_PATH = "/embeddings"


def url_of(account: Account, path: str, model: str) -> URL:
    if not (account.kind == ProviderKind.AZURE and account.api_version):
        return URL(account.base_url + path)
    root = account.base_url.removesuffix("/openai") + "/openai"
    deployment = "" if path == RESPONSES_PATH else f"/deployments/{quote(model, safe='')}"
    return URL(f"{root}{deployment}{path}?{urlencode({'api-version': account.api_version})}", encoded=True)


def key_header(account: Account) -> dict[str, str]:
    if account.kind == ProviderKind.AZURE:
        return {"api-key": account.api_key}
    return {"Authorization": f"Bearer {account.api_key}"}
