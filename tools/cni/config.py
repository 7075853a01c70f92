"""The network configuration on stdin, as far as every command needs it."""

from __future__ import annotations

from time import monotonic

from tools.cni.client import Coild, is_encodable, locate
from tools.cni.codec import decode
from tools.cni.environment import is_word
from tools.cni.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, INVALID_CONFIG, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
#: The first version of the specification that has the command.
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
#: `address-type`, and the families of the addresses that it asks for.
FAMILIES = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}

#: All keys of `ipam`.
_KEYS = frozenset(
    {
        *("type", "coild", "address-type", "subnet", "gateway"),
        *("routes", "resolvConf", "timeout", "spool"),
    }
)
#: A runtime's other requests to an IPAM plugin (CNI's CONVENTIONS.md). `mac` and its like are the
#: interface plugin's, which reads the same configuration.
_RUNTIME_KEYS = ("ips", "ipranges", "dns")
_ARGUMENT_KEYS = ("ips",)
#: The advice on such a request.
NO_CHOICE = "coild chooses the address: take this out of the configuration or of the pod"
_NO_DNS = "name a file as ipam.resolvConf, or dns in the configuration; take this out of it"

#: A socket that only root can bind: over TCP, any local user could answer for a coild that is down.
DEFAULT = "unix:/run/coild/coild.sock"
#: Where releases are kept for a coild that is down.
_SPOOL = "/var/lib/coild/spool"
_NAME_LENGTH_MAX = 253
_TIMEOUT_SECONDS = 10
_TIMEOUT_SECONDS_MIN = 0.1
_TIMEOUT_SECONDS_MAX = 300


class Config:
    """A network configuration: `network` is its name, `families` those of `address-type`."""

    def __init__(self, document: dict[str, Any], command: str) -> None:
        """Check the keys that all commands need. Raises CniError, naming the key."""
        self.document = document
        self.version = _version(document, command)
        network = document.get("name")
        if not isinstance(network, str) or not is_word(network):
            raise CniError(
                INVALID_CONFIG,
                f"name is {_shown(document, 'name')}: the network must have a name that begins "
                "with a letter or a digit and has only these, '_', '.' and '-' after that",
            )
        if len(network) > _NAME_LENGTH_MAX:
            raise CniError(INVALID_CONFIG, f"name is longer than {_NAME_LENGTH_MAX} characters")
        self.network = network
        ipam = document.get("ipam")
        if not isinstance(ipam, dict):
            raise CniError(INVALID_CONFIG, "ipam is missing: it must be an object with a type")
        self.ipam: dict[str, Any] = ipam
        # A wrong key that DEL does not need does not prevent it.
        strict = command != "DEL"
        #: Whether the configuration names the families.
        self.names_families = "address-type" in ipam
        self.families = _families(ipam, strict=strict)
        self.timeout = _timeout(ipam, strict=strict)
        self.spool = ipam.get("spool", _SPOOL)
        if not isinstance(self.spool, str) or self.spool[:1] != "/" or not _is_path(self.spool):
            raise wrong(ipam, "spool", "the absolute path of a directory")
        where = ipam.get("coild", DEFAULT)
        if not isinstance(where, str):
            raise wrong(ipam, "coild", f"an address like {DEFAULT} or http://127.0.0.1:9383")
        try:
            self.coild: Coild = locate(where, monotonic() + self.timeout)
        except ValueError as error:
            raise CniError(INVALID_CONFIG, f"ipam.coild: {error}") from None

    def refuse_unknown(self) -> None:
        """Raise CniError for options in the configuration that no plugin would carry out."""
        unknown = [
            key for key, value in self.ipam.items() if key not in _KEYS and value is not None
        ]
        if unknown:
            raise CniError(
                INVALID_CONFIG,
                f"ipam has {', '.join(map(_quoted, unknown))}, which coild-ipam does not know",
                f"it knows {', '.join(sorted(_KEYS))}; pools are configured in coild",
            )
        arguments = self.document.get("args")
        asked = arguments.get("cni") if isinstance(arguments, dict) else None
        for where, found, keys in (
            ("runtimeConfig", self.document.get("runtimeConfig"), _RUNTIME_KEYS),
            ("args.cni", asked, _ARGUMENT_KEYS),
        ):
            given: dict[str, Any] = found if isinstance(found, dict) else {}
            for key, value in given.items():
                # Plugins in Go take a key in any case.
                if key.lower() in keys and _asks(value):
                    raise CniError(
                        INVALID_CONFIG,
                        f"{where}.{key} is {_shown(given, key)}, which coild-ipam does not honour",
                        _NO_DNS if key.lower() == "dns" else NO_CHOICE,
                    )


def _families(ipam: dict[str, Any], *, strict: bool) -> tuple[int, ...]:
    """The families of `address-type`; both if it is wrong and `strict` is not set."""
    value = ipam.get("address-type", "ipv4")
    if isinstance(value, str) and value in FAMILIES:
        return FAMILIES[value]
    if strict:
        raise wrong(ipam, "address-type", '"ipv4", "ipv6" or "dual"')
    return FAMILIES["dual"]


def _timeout(ipam: dict[str, Any], *, strict: bool) -> float:
    """The timeout in seconds; the default if it is wrong and `strict` is not set."""
    value = ipam.get("timeout", _TIMEOUT_SECONDS)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and _TIMEOUT_SECONDS_MIN <= value <= _TIMEOUT_SECONDS_MAX:
        return float(value)
    if strict:
        rule = f"a number of seconds from {_TIMEOUT_SECONDS_MIN} to {_TIMEOUT_SECONDS_MAX}"
        raise wrong(ipam, "timeout", rule)
    return _TIMEOUT_SECONDS


def _asks(value: Any) -> bool:
    """Whether an option is set: runtimes in Go pass unset ones as empty lists."""
    return any(map(_asks, value.values())) if isinstance(value, dict) else bool(value)


def _is_path(text: str) -> bool:
    return "\0" not in text and is_encodable(text)


def _quoted(text: str) -> str:
    return repr(text)[:_NAME_LENGTH_MAX]


def read_document(data: bytes) -> dict[str, Any]:
    """The JSON object on stdin. Raises CniError."""
    try:
        document = decode(data)
    except ValueError as error:
        raise CniError(
            DECODING_FAILURE, f"the network configuration on stdin is no JSON: {error}"
        ) from None
    if not isinstance(document, dict):
        raise CniError(DECODING_FAILURE, "the network configuration on stdin is no JSON object")
    return document


def answer_version(document: object) -> str:
    """The version of the answer: that of the configuration if it is supported, else the newest."""
    version = document.get("cniVersion") if isinstance(document, dict) else None
    return version if isinstance(version, str) and version in VERSIONS else VERSIONS[-1]


def wrong(ipam: dict[str, Any], key: str, rule: str) -> CniError:
    """The error for a key of `ipam` that does not follow its rule."""
    return CniError(INVALID_CONFIG, f"ipam.{key} is {_shown(ipam, key)}: it must be {rule}")


def _shown(document: dict[str, Any], key: str) -> str:
    return repr(document[key])[:200] if key in document else "missing"


def _version(document: dict[str, Any], command: str) -> str:
    """The version of the answer. Raises CniError if it is unsupported or lacks the command."""
    if command == "DEL":
        # The result does not depend on the version, and the container is in the environment in all
        # versions: DEL works with whatever configuration the runtime has kept.
        return answer_version(document)
    # Without a version, it is a configuration from before 0.2.0 (CNI spec 0.2.0, "Versioning").
    version = document.get("cniVersion", "0.1.0")
    if not isinstance(version, str):
        raise CniError(
            DECODING_FAILURE, f"cniVersion is {_shown(document, 'cniVersion')}: it must be a string"
        )
    if version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"CNI version {version[:200]!r} is not supported",
            f"supported are {', '.join(VERSIONS)}",
        )
    since = SINCE.get(command, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(INCOMPATIBLE_VERSION, f"there is no {command} before CNI version {since}")
    return version
