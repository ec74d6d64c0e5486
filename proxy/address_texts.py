"""Addresses as text: `ipaddress` takes a microsecond for one, and a busy proxy asks for few of them, often."""

from racecar.redirect.abi import IPAddress

MAX_KNOWN = 4096


class AddressTexts:
    """The texts of address objects, by the object: equal ones may have an entry each."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[IPAddress, str]] = {}  # the objects are kept, so that nothing else gets their ids

    def of(self, address: IPAddress) -> str:
        known = self._known.get(id(address))
        if known is not None:
            return known[1]
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        text = str(address)
        self._known[id(address)] = address, text
        return text
