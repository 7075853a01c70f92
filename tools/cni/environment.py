"""The runtime's environment variables: the command, the container and its pod."""

from __future__ import annotations

from posix import environ

from tools.cni.errors import INVALID_ENVIRONMENT, CniError

#: CNI spec 1.1.0, section "CNI operations": what each command requires.
REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
#: Linux: IFNAMSIZ is 16, with the NUL.
_IFNAME_BYTES_MAX = 15
#: The limits of coild for container IDs and for the names of pods.
_KEY_LENGTH_MAX = 256
_NAME_LENGTH_MAX = 253
_ALPHANUMERIC = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_WORD = _ALPHANUMERIC | frozenset("_.-")
#: The keys about a pod that runtimes pass. coild only uses the first two.
_KNOWN_ARGS = {"K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID"}
#: Requests to the reference plugin `static`: never ignored, even with IgnoreUnknown.
_ASKED_ARGS = ("IP", "SUBNET", "GATEWAY")
_TRUTH = {"1": True, "true": True, "0": False, "false": False}


def _invalid(what: str, advice: str = "") -> CniError:
    return CniError(INVALID_ENVIRONMENT, what, advice)


def variable(name: str) -> str:
    """The value, empty if it is not set. Raises CniError if it is not UTF-8."""
    try:
        return environ.get(name.encode(), b"").decode()
    except ValueError:
        raise _invalid(f"{name} is not UTF-8") from None


def is_word(text: str) -> bool:
    """Whether the specification allows it as a container ID or a network's name."""
    return bool(text) and text[0] in _ALPHANUMERIC and _WORD.issuperset(text)


def attachment_key(container_id: str, ifname: str) -> str:
    """Coild's container ID for an interface of a container."""
    return container_id if ifname == "eth0" else f"{container_id}/{ifname}"


def ipv6_key(container_id: str, ifname: str) -> str:
    """Coild's container ID of its IPv6 address, if it has addresses of both families."""
    return f"{container_id}/{ifname}/ipv6"


class Attachment:
    """The container, its interface and its pod."""

    def __init__(self, command_name: str) -> None:
        """Read the environment. Raises CniError, naming the variable."""
        container_id = variable("CNI_CONTAINERID")
        self.ifname = variable("CNI_IFNAME")
        self.container_id = container_id
        if not is_word(container_id):
            raise _invalid(
                f"CNI_CONTAINERID is {container_id!r}: it must begin with a letter or a digit, "
                "and have only these, '_', '.' and '-' after that",
            )
        _check_ifname(self.ifname)
        self.key = attachment_key(container_id, self.ifname)
        self.ipv6_key = ipv6_key(container_id, self.ifname)
        if len(self.ipv6_key) > _KEY_LENGTH_MAX:
            raise _invalid(
                f"CNI_CONTAINERID is too long: {len(container_id)} characters, and with the "
                f"interface coild takes {_KEY_LENGTH_MAX}",
            )
        #: Requests in CNI_ARGS that coild does not support, as NAME=VALUE.
        self.asked: list[str] = []
        self.pod_namespace = "default"
        # podman and ctr pass no pod.
        self.pod_name = container_id[:_NAME_LENGTH_MAX]
        try:
            self._read_arguments(_arguments(variable("CNI_ARGS")))
        except CniError:
            # What is held is the container's, whatever it is called: a DEL that fails for that
            # would fail each time that it is repeated.
            if command_name == "ADD":
                raise

    def _read_arguments(self, arguments: dict[str, str]) -> None:
        self.asked = [f"{name}={arguments[name]}" for name in _ASKED_ARGS if arguments.get(name)]
        pod_namespace = arguments.get("K8S_POD_NAMESPACE") or self.pod_namespace
        pod_name = arguments.get("K8S_POD_NAME") or self.pod_name
        _check_name("K8S_POD_NAMESPACE", pod_namespace)
        _check_name("K8S_POD_NAME", pod_name)
        self.pod_namespace, self.pod_name = pod_namespace, pod_name


def command() -> str:
    """The command, if all variables that it requires are set. Raises CniError."""
    name = variable("CNI_COMMAND")
    if not name:
        raise _invalid("required environment variable CNI_COMMAND is not set")
    required = REQUIRED.get(name)
    if required is None:
        known = ", ".join(REQUIRED)
        raise _invalid(f"CNI_COMMAND is {name!r}: it must be one of {known}")
    missing = [each for each in required if not variable(each)]
    if missing:
        raise _invalid(f"required environment variables not set: {', '.join(missing)}")
    return name


def _check_ifname(name: str) -> None:
    """CNI spec 1.1.0, section "Parameters": a name that Linux allows for an interface."""
    wrong = name in {".", ".."} or "/" in name or ":" in name or name.split() != [name]
    if wrong or len(name.encode()) > _IFNAME_BYTES_MAX or not name.isprintable():
        raise _invalid(
            f"CNI_IFNAME is {name!r}: it must have 1 to {_IFNAME_BYTES_MAX} bytes without '/', ':' "
            "and white space, and not be '.' or '..'",
        )


def _check_name(name: str, value: str) -> None:
    control = any(character < " " or "\x7f" <= character <= "\x9f" for character in value)
    if len(value) > _NAME_LENGTH_MAX or "/" in value or control:
        raise _invalid(
            f"{name} in CNI_ARGS is {value!r}: it must have at most {_NAME_LENGTH_MAX} characters, "
            "without '/' and control characters",
        )


def _arguments(text: str) -> dict[str, str]:
    """CNI_ARGS as libcni reads them: unknown ones are errors, unless IgnoreUnknown is set."""
    found: dict[str, str] = {}
    ignored = False
    unknown = []
    for pair in text.split(";") if text else ():
        name, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise _invalid(f"CNI_ARGS has {pair!r}, which is no NAME=VALUE")
        if name == "IgnoreUnknown":
            if value.lower() not in _TRUTH:
                raise _invalid(f"CNI_ARGS has {pair!r}: it must be 1, true, 0 or false")
            ignored = _TRUTH[value.lower()]
        elif name in _KNOWN_ARGS:
            found[name] = value
        else:
            if name in _ASKED_ARGS:
                found[name] = value
            unknown.append(name)
    if unknown and not ignored:
        raise _invalid(
            f"CNI_ARGS has {', '.join(unknown)}, which coild-ipam does not know",
            "add IgnoreUnknown=1 if that is meant for another plugin",
        )
    return found
