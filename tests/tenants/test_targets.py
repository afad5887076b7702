"""Where addresses that are entered in the admin may lead. Nothing is sent here."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.targets import (
    NOT_PUBLIC,
    Address,
    AllowedTargets,
    literal_address,
    read_allowed_targets,
    refusal_of,
)

NONE = AllowedTargets()
METADATA = "a cloud's metadata service"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", None), ("1.1.1.1", None), ("172.32.0.1", None), ("2606:4700::1111", None), ("::ffff:8.8.8.8", None),
        ("64:ff9b::808:808", None), ("192.0.1.1", None), ("11.0.0.1", None),
        ("127.0.0.1", "loopback"), ("127.255.255.254", "loopback"), ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"), ("64:ff9b::7f00:1", "loopback"),
        ("0.0.0.0", "unspecified"), ("0.1.2.3", "unspecified"), ("::", "unspecified"),
        ("10.0.0.1", "private"), ("172.16.0.1", "private"), ("172.31.255.255", "private"), ("192.168.1.1", "private"),
        ("100.64.0.1", "private"), ("fc00::1", "private"), ("fd12:3456::1", "private"), ("fec0::1", "private"),
        ("::ffff:192.168.0.1", "private"), ("64:ff9b::a00:1", "private"),
        ("169.254.1.1", "link-local"), ("fe80::1", "link-local"), ("fe80::1%eth0", "link-local"),
        ("169.254.169.254", METADATA), ("::ffff:169.254.169.254", METADATA), ("169.254.170.2", METADATA),
        ("168.63.129.16", METADATA), ("100.100.100.200", METADATA), ("192.0.0.192", METADATA),
        ("fd00:ec2::254", METADATA), ("fd20:ce::254", METADATA),
        ("224.0.0.1", "multicast"), ("239.255.255.255", "multicast"), ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"), ("240.0.0.1", "reserved"), ("192.0.2.1", "reserved"),
        ("198.18.0.1", "reserved"), ("203.0.113.9", "reserved"), ("192.88.99.1", "reserved"),
        ("2001::1", "reserved"), ("2001:db8::1", "reserved"), ("2002:7f00:1::", "reserved"), ("::7f00:1", "reserved"),
        ("64:ff9b:1::1", "reserved"), ("4000::1", "reserved"), ("100::1", "reserved"), ("3fff::1", "reserved"),
    ],
)  # fmt: skip
def test_the_internet_alone_is_reached(address: str, kind: str | None) -> None:
    assert refusal_of("hooks.example.com", ip_address(address), NONE) == kind


ANY_ADDRESS = st.ip_addresses() | st.sampled_from(
    [network for networks in NOT_PUBLIC.values() for network in networks]
).flatmap(lambda network: st.ip_addresses(network=network))


@given(ANY_ADDRESS)
def test_what_python_knows_as_not_global_is_refused(address: Address) -> None:
    """Its list is an independent one, which changes with its version: ours may refuse more, never less."""
    wrapped = isinstance(address, IPv6Address) and address.ipv4_mapped
    if not wrapped and (not address.is_global or address.is_multicast) and address not in ip_network("64:ff9b::/96"):
        assert refusal_of("x.example", address, NONE) is not None


@given(st.ip_addresses(v=4))
def test_an_address_wrapped_in_another_is_judged_as_itself(address: IPv4Address) -> None:
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        wrapped = IPv6Address(int(IPv6Address(prefix)) | int(address))
        assert refusal_of("x.example", wrapped, NONE) == refusal_of("x.example", address, NONE)


@given(ANY_ADDRESS)
def test_what_is_listed_is_reached_by_address_network_or_host(address: Address) -> None:
    plain = IPv6Address(int(address)) if isinstance(address, IPv6Address) else address
    width = address.max_prefixlen // 2
    for listed in (f"{plain}", f"{ip_network(f'{plain}/{width}', strict=False)}", "Hooks.Example.COM."):
        allowed = read_allowed_targets(f" 192.0.2.7 , {listed}")
        assert refusal_of("hooks.example.com", address, allowed) is None
    assert refusal_of("hooks.example.com", address, read_allowed_targets("example.com")) == refusal_of(
        "hooks.example.com", address, NONE
    )


def test_a_listed_ipv4_address_is_reached_however_it_is_wrapped() -> None:
    assert refusal_of("x", ip_address("::ffff:10.1.2.3"), read_allowed_targets("10.0.0.0/8")) is None
    assert refusal_of("x", ip_address("::1"), read_allowed_targets("[::1]")) is None
    assert refusal_of("x", ip_address("127.0.0.2"), read_allowed_targets("127.0.0.1, 10.0.0.0/8")) == "loopback"


@pytest.mark.parametrize("text", ["http://x", "10.0.0.1/8", "10.0.0.0/33", "300.1.1.1", "a b", "x:80", "*", "10.0.0"])
def test_a_list_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be addresses, networks"):
        read_allowed_targets(f"127.0.0.1,{text}")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost", "127.0.0.1"), ("Api.LOCALHOST.", "127.0.0.1"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1"),
        ("example.com", None), ("", None), ("localhost.example.com", None),
    ],
)  # fmt: skip
def test_a_host_that_is_an_address_is_known_without_a_look_up(host: str, address: str | None) -> None:
    assert literal_address(host) == (address and ip_address(address))
