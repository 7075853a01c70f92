"""The Kubernetes manifest against the schema and the daemon, and the installation page's words."""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from coild import __version__
from coild.http import operations
from coild.process.probe import TIMEOUT_SECONDS as PROBE_SECONDS
from tests.kits.daemon.process import ROOT, ended, run
from tests.kits.system.systemd import SERVICE, SOCKET
from tools.cni.config import DEFAULT

MANIFEST = ROOT / "tools" / "kubernetes" / "daemonset.yaml"
PAGE = ROOT / "tools" / "INSTALL.md"
#: The oldest and the newest whose schema there is.
VERSIONS = ("1.27", "1.37")
#: Where the plugin looks for coild.
DEFAULT_SOCKET = DEFAULT.removeprefix("unix:")


def manifest() -> dict[str, Any]:
    """The objects of the manifest, by kind."""
    return {found["kind"]: found for found in yaml.safe_load_all(MANIFEST.read_text())}


def pod() -> dict[str, Any]:
    """The pod of each node."""
    spec: dict[str, Any] = manifest()["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def daemon() -> dict[str, Any]:
    """The container that coild runs in."""
    return container("coild")


def container(name: str) -> dict[str, Any]:
    """The container of that name, which is none of the first to run."""
    (found,) = [each for each in pod()["containers"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def containers() -> list[dict[str, Any]]:
    """All containers, those that run first before the others."""
    return [*pod()["initContainers"], *pod()["containers"]]


def configurations() -> dict[str, str]:
    """The TOML of each node."""
    data = manifest()["ConfigMap"]["data"]
    return {name: text for name, text in data.items() if name.endswith(".toml")}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["ConfigMap", "DaemonSet"])
def test_the_manifest_is_what_the_schema_says(kind: str, version: str) -> None:
    """Each object is valid by the schema of Kubernetes, in which no unknown key is allowed."""
    kubernetes_validate.validate(manifest()[kind], version, strict=True)


@pytest.mark.parametrize("where", ["container", "probe", "volume"])
def test_the_schema_knows_a_wrong_key(where: str) -> None:
    """A key that Kubernetes does not have is found, however deep."""
    changed = manifest()["DaemonSet"]
    spec = changed["spec"]["template"]["spec"]
    place = {
        "container": spec["containers"][0],
        "probe": spec["containers"][0]["livenessProbe"]["exec"],
        "volume": spec["volumes"][1]["hostPath"],
    }[where]
    place["unknown"] = True

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(changed, VERSIONS[-1], strict=True)


@pytest.mark.parametrize(
    ("name", "question"),
    [("startupProbe", "livez"), ("readinessProbe", "readyz"), ("livenessProbe", "livez")],
)
def test_the_probes_ask_what_coild_answers(name: str, question: str) -> None:
    """Each probe asks GET of a path of the API, over the socket, and has time to say its reason."""
    probe = daemon()[name]
    program = ["python3", "-m", "coild.process.probe", question]

    assert [*program, "--socket", DEFAULT_SOCKET] == probe["exec"]["command"]
    assert "GET" in operations.METHODS[f"/{question}"]
    assert PROBE_SECONDS < probe["timeoutSeconds"]
    assert "httpGet" not in probe


@pytest.mark.parametrize("node", configurations())
def test_each_node_has_a_configuration_that_coild_takes(node: str, tmp_path: Path) -> None:
    """`coild --check-config` accepts the file of each node: no TCP, the socket that is probed."""
    (tmp_path / node).write_text(configurations()[node])
    checked = run("--config", str(tmp_path / node), "--check-config")

    assert checked.returncode == 0, checked.stderr
    assert 'http = "off"\n' in checked.stdout
    assert f'socket = "{DEFAULT_SOCKET}"\n' in checked.stdout
    assert 'after-reboot = "release"' in checked.stdout


def test_no_two_nodes_share_an_address() -> None:
    """The subnets of the nodes do not overlap: nothing else keeps an address from two pods."""
    found = [re.findall(r'"([0-9a-f.:]+/\d+)"', text) for text in configurations().values()]
    networks = [[ipaddress.ip_network(subnet) for subnet in subnets] for subnets in found]

    assert all(networks)
    for one, other in itertools.combinations(networks, 2):
        assert not [(a, b) for a in one for b in other if a.version == b.version and a.overlaps(b)]


def test_the_arguments_name_the_files_that_are_mounted() -> None:
    """The configuration is the node's own key of the map; the data is where the service's is."""
    mounts = {mount["name"]: mount["mountPath"] for mount in daemon()["volumeMounts"]}
    config, data_dir, proc = daemon()["args"][1::2]
    (variable,) = daemon()["env"]

    assert ["--config", "--data-dir", "--proc"] == daemon()["args"][::2]
    assert config == f"{mounts['config']}/$({variable['name']}).toml"
    assert (data_dir, proc) == (mounts["data"], mounts["proc"])
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"


def test_the_paths_are_those_of_the_service() -> None:
    """On the node, the data is where systemd's unit has it and where the plugin looks for it."""
    paths = {v["name"]: v["hostPath"]["path"] for v in pod()["volumes"] if "hostPath" in v}

    assert "StateDirectory=coild\n" in SERVICE.read_text()
    assert [DEFAULT_SOCKET] == re.findall("ListenStream=(.*)", SOCKET.read_text())
    assert paths == {
        "data": "/var/lib/coild",
        "cni-bin": "/opt/cni/bin",
        "cni-conf": "/etc/cni/net.d",
        "proc": "/proc",
        "run": str(Path(DEFAULT_SOCKET).parent),
    }
    for each in containers():
        for mount in each["volumeMounts"]:
            assert mount["name"] in {volume["name"] for volume in pod()["volumes"]}


def test_the_pod_has_one_power() -> None:
    """No container may more than the service: all is dropped, and the daemon gets its routes."""
    given = {each["name"]: each["securityContext"]["capabilities"] for each in containers()}

    assert {"drop": ["ALL"], "add": ["NET_ADMIN"]} == given.pop("coild")
    assert {"plugin": {"drop": ["ALL"]}, "network": {"drop": ["ALL"]}} == given
    assert "CapabilityBoundingSet=CAP_NET_ADMIN\n" in SERVICE.read_text()


def test_the_pod_needs_no_pod_network() -> None:
    """It runs on the node's network and on every node, whatever is wrong with that."""
    assert pod()["hostNetwork"] is True
    assert pod()["priorityClassName"] == "system-node-critical"
    assert pod()["tolerations"] == [{"operator": "Exists"}]


def test_the_image_is_this_version() -> None:
    """Every container runs the image that the page says to build, of this version of coild."""
    images = {each["image"] for each in containers()}

    assert images == {f"coild:{__version__}"}
    assert f"coild:{__version__} " in MANIFEST.with_name("Containerfile").read_text()


def test_the_network_configuration_asks_this_daemon() -> None:
    """The conflist is JSON with our plugin in it, and the socket that coild listens on."""
    found = json.loads(manifest()["ConfigMap"]["data"]["10-coild.conflist"])
    ipam = found["plugins"][0]["ipam"]

    assert ("coild-ipam", f"unix:{DEFAULT_SOCKET}") == (ipam["type"], ipam["coild"])


def test_the_page_knows_the_daemons_options() -> None:
    """Every option of coild that the page shows in code is one of `coild --help`."""
    text = PAGE.read_text()
    known = set(re.findall(r"--[a-z-]+", run("--help").stdout)) | {"--no-export-routes"}
    shown = set(re.findall(r"`(?:coild )?(--[a-z-]+)", text))

    assert shown
    assert shown <= known | {"--install", "--python", "--unchecked"}


def test_the_page_points_to_what_is_there() -> None:
    """Every file of the checkout that the page names or links to exists."""
    text = PAGE.read_text()
    links = re.findall(r"\]\(([^)#:]+)[^):]*\)", text)
    files = re.findall(r"\btools/[a-z]+/[\w.]+", text)

    assert links
    assert files
    for name in links:
        assert (PAGE.parent / name).exists(), name
    for name in files:
        assert (ROOT / name).exists(), name


def test_the_page_is_short() -> None:
    """Whoever installs reads it in one go."""
    assert len(PAGE.read_text().splitlines()) <= 150


def test_the_shell_of_the_page_is_shell() -> None:
    """Every indented block of commands parses as shell."""
    text = re.sub(r"(?ms)^```.*?^```$", "", PAGE.read_text())
    blocks = re.findall(r"(?m)(?:^    .*\n)+", text)
    commands = [block for block in blocks if not block.lstrip().startswith("{")]

    assert commands
    for block in commands:
        parsed = ended(["sh", "-n"], input=block)
        assert parsed.stderr == "", block


def test_the_configuration_of_the_page_is_taken(tmp_path: Path) -> None:
    """`coild --check-config` accepts the page's /etc/coild.toml."""
    (block,) = re.findall(r"(?ms)^```toml\n(.*?)^```$", PAGE.read_text())
    (tmp_path / "coild.toml").write_text(block)
    checked = run("--config", str(tmp_path / "coild.toml"), "--check-config")

    assert checked.returncode == 0, checked.stderr
    assert 'http = "off"\n' in checked.stdout
    assert 'socket = "/run/coild/coild.sock"' in checked.stdout
    assert "ListenStream=/run/coild/coild.sock\n" in SOCKET.read_text()
