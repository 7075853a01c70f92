"""A container runtime for tests, which runs CNI plugins as libcni does."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kits.daemon.process import TIMEOUT_SECONDS, ended
from tests.kits.system.debian import package

#: "Try again later" (CNI spec 1.1.0, section "Error").
TRY_AGAIN_LATER = 11
_RETRY_SECONDS = 0.05


class PluginError(Exception):
    """A plugin's error result; `code` is the specification's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def plugins(directory: Path) -> Path:
    """A new directory with coild-ipam, installed as its users do, and Debian's plugins."""
    installed = ended([sys.executable, "-m", "tools.ipam", "--install", str(directory)])
    assert 0 == installed.returncode, installed.stderr
    for plugin in (package("containernetworking-plugins") / "usr/lib/cni").iterdir():
        (directory / plugin.name).symlink_to(plugin)
    return directory


class Runtime:
    """Attaches containers to one network; plugins are executed in the caller's namespaces.

    `network` is a network configuration list: cniVersion, name and plugins.
    """

    def __init__(self, plugin_path: Path, network: dict[str, Any]) -> None:
        self.network = network
        self._plugin_path = plugin_path
        self._results: dict[tuple[str, str], dict[str, Any]] = {}

    def add(
        self, container_id: str, netns: str, ifname: str = "eth0", args: str = "", **more: Any
    ) -> dict[str, Any]:
        """ADD by each plugin in turn, each with the result of the one before; the last result.

        Runs a plugin again if it says "try again later". Raises PluginError for other errors, after
        it deleted what was begun, as a runtime does.
        """
        result: dict[str, Any] = {}
        try:
            for plugin in self.network["plugins"]:
                result = self._until_answered(
                    "ADD", plugin, result, container_id, netns, ifname, args
                )
        except PluginError:
            self.delete(container_id, netns, ifname, args)
            raise
        self._results[container_id, ifname] = result
        return result

    def delete(
        self, container_id: str, netns: str = "", ifname: str = "eth0", args: str = ""
    ) -> None:
        """DEL by each plugin in the opposite order, each with the result of ADD.

        Without `netns`: the container's namespace is gone. Raises PluginError.
        """
        result = self._results.pop((container_id, ifname), None)
        for plugin in reversed(self.network["plugins"]):
            self._execute("DEL", plugin, result, container_id, netns, ifname, args)

    def check(self, container_id: str, netns: str, ifname: str = "eth0", args: str = "") -> None:
        """CHECK by each plugin in turn, with the result of ADD. Raises PluginError."""
        result = self._results[container_id, ifname]
        for plugin in self.network["plugins"]:
            self._execute("CHECK", plugin, result, container_id, netns, ifname, args)

    def collect(self, valid: Sequence[tuple[str, str]]) -> None:
        """GC by each plugin: (container ID, interface) of all attachments there are."""
        attachments = [{"containerID": each, "ifname": ifname} for each, ifname in valid]
        for plugin in self.network["plugins"]:
            self._execute("GC", plugin | {"cni.dev/valid-attachments": attachments})

    def _until_answered(self, command: str, *arguments: Any) -> Any:
        """`_execute`, again and again while it is to be tried later."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return self._execute(command, *arguments)
            except PluginError as error:
                if error.code != TRY_AGAIN_LATER or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_SECONDS)

    def _execute(
        self,
        command: str,
        plugin: dict[str, Any],
        result: dict[str, Any] | None = None,
        container_id: str = "",
        netns: str = "",
        ifname: str = "",
        args: str = "",
    ) -> Any:
        """The result of one execution of one plugin (CNI spec 1.1.0, section 4)."""
        config = {"cniVersion": self.network["cniVersion"], "name": self.network["name"]} | plugin
        if result:
            config["prevResult"] = result
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": str(self._plugin_path),
        }
        completed = ended(
            [self._plugin_path / plugin["type"]],
            # What is not said is not in the environment; and it is nothing but this.
            env={"PATH": os.environ["PATH"]} | {k: v for k, v in variables.items() if v},
            input=json.dumps(config),
        )
        said = json.loads(completed.stdout) if completed.stdout else None
        if completed.returncode:
            assert said, f"{command} ended with {completed.returncode}: {completed.stderr}"
            raise PluginError(said["code"], f"{said['msg']} {said.get('details', '')}")
        return said
