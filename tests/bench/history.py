"""`python -m tests.bench.history`: fill a database with made-up history, and measure the pages that show it.

The database is the one that DATABASE_URL names, migrated and empty: never one that is used for real.

    python -m tests.bench.history make --entries 1000000 --tenants 200
    python -m tests.bench.history pages
"""

import argparse
import os
import sys
from time import monotonic, sleep

import django


def main() -> None:
    options = read_options()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "guard.settings")
    django.setup()
    if options.what == "make":
        make(options)
    elif options.what == "edit":
        edit(options)
    else:
        from tests.bench.pages import measure

        measure(options.times)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.history", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whats = parser.add_subparsers(dest="what", required=True)
    made = whats.add_parser("make", help="Make N ledger entries over M new tenants, with all that belongs to them.")
    made.add_argument("--entries", type=int, required=True)
    made.add_argument("--tenants", type=int, required=True)
    made.add_argument("--days", type=int, default=90, help="How far back the history goes.")
    made.add_argument("--prefix", default="bench", help="The tenants' ids begin with it.")
    made.add_argument("--keys", type=int, default=0, metavar="N", help="Print secrets of new keys of N of them.")
    made.add_argument("--model", help="A model that those N may call, too.")
    edited = whats.add_parser("edit", help="Rename one of the tenants again and again.")
    edited.add_argument("--times", type=int, required=True)
    edited.add_argument("--every", type=float, required=True, metavar="SECONDS")
    pages = whats.add_parser("pages", help="How long each page takes on the data there is.")
    pages.add_argument("--times", type=int, default=15)
    options = parser.parse_args()
    if options.what == "make" and min(options.entries, options.tenants, options.days) < 1:
        parser.error("--entries, --tenants and --days must be at least 1.")
    return options


def make(options: argparse.Namespace) -> None:
    from django.utils import timezone

    from spend.summaries.daily import catch_up
    from tenants.models import ApiKey, RouteStep, Tenant
    from tests.bench import made_up

    if Tenant.objects.filter(id__startswith=f"{options.prefix}-").exists():
        sys.exit(f"There are tenants named {options.prefix}-… already; choose another --prefix.")
    started, now = monotonic(), timezone.now()
    made_up.make(options.entries, options.tenants, now, options.prefix, options.days)
    catch_up(now)
    print(
        f"{options.entries:,} entries over {options.tenants} tenants in {monotonic() - started:.0f} s.", file=sys.stderr
    )
    for tenant in Tenant.objects.filter(id__startswith=f"{options.prefix}-").order_by("-id")[: options.keys]:
        if options.model:
            RouteStep.objects.create(tenant=tenant, position=2, model_id=options.model)
        print(ApiKey.objects.issue(tenant, "bench")[1])


def edit(options: argparse.Namespace) -> None:
    from tenants.models import Tenant

    tenant = Tenant.objects.order_by("-id")[:1].get()
    for number in range(options.times):
        tenant.name = f"Renamed {number}"
        tenant.save()
        sleep(options.every)


if __name__ == "__main__":
    main()
