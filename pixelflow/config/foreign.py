"""Restricts what config files outside conf/ may set: parts and their options, but nothing that runs code.

A folder of configs may have come with a checkpoint (`--config-dir`, `hydra.searchpath`). Hydra itself calls what a
config names (callbacks, loggers, launchers, sweepers), and a site has lines for the shell. These are taken from conf/
and from the command line alone, apart from a site and from the settings of a sweep.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pixelflow.conf_dir import conf_folder
from pixelflow.errors import UserError
from pixelflow.parts import TARGET, targets
from pixelflow.runs.flat import flatten

OF_THE_COMMAND = ("runtime", "overrides", "mode", "verbose", "job.name", "job.override_dirname", "job.config_name")
"""Keys of `hydra` that Hydra sets from the command line."""
OF_A_RECIPE = ("sweeper", "callbacks")
"""Keys of `hydra` that a recipe outside conf/ may set to classes that conf/ or a plugin of Hydra names."""
OF_THE_MACHINE = ("hydra", "site", "trust")
"""Keys that no sweep of a recipe may vary."""


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's loader, which also checks what files outside conf/ have set, before Hydra acts on it."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Composes a config.

        Raises:
            UserError: A file outside conf/ sets what only the command line may set.
        """
        config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        parsed = OverridesParser.create().parse_overrides(overrides)
        searched = any(override.key_or_group == "hydra.searchpath" for override in parsed)
        if searched or any(_is_foreign(source.provider, source.path) for source in self.config_search_path.get_path()):
            self._check(config, parsed, run_mode)
        return config

    def _check(self, config: DictConfig, typed: list[Override], run_mode: RunMode) -> None:
        own = [override for override in typed if _root(override) == "hydra" or _is_own(override)]
        site = [override for override in typed if _root(override) == "site"]
        ours = copy.deepcopy(self.config_search_path)
        ours.get_path()[:] = [source for source in ours.get_path() if not _is_foreign(source.provider, source.path)]
        if not any(source.provider == "main" for source in ours.get_path()):
            ours.prepend("main", f"file://{conf_folder()}", "schema")
        expected = _flat(_compose(ours, own, run_mode).hydra)
        given = _flat(config.hydra)
        for key in sorted(given.keys() | expected.keys()):
            if given.get(key) != expected.get(key) and not _within(key, (*OF_THE_COMMAND, *OF_A_RECIPE)):
                raise UserError(
                    f"hydra.{key} is set by a file outside conf/: only the command line may set it; type it there if "
                    "you want it, or leave that file out"
                )
        for key, target in targets(OmegaConf.to_container(config.hydra, resolve=False), "hydra"):
            if target not in _callable_by_hydra():
                raise UserError(
                    f"{key}._target_={target} is set by a file outside conf/, but it is neither named in conf/ nor a "
                    "plugin of Hydra"
                )
        if given.get("sweeper.custom_search_space") != expected.get("sweeper.custom_search_space"):
            raise UserError("hydra.sweeper.custom_search_space, a function, is set by a file outside conf/")
        searched = [override for override in typed if override.key_or_group == "hydra.searchpath"]
        if _flat(config.site) != _flat(_compose(self.config_search_path, [*site, *searched], run_mode).site):
            raise UserError(
                "a file outside conf/ sets the site, which only site=NAME and site.KEY=VALUE on the command line may do"
            )
        _check_sweep(config)


def guard() -> None:
    """Makes Hydra compose with `GuardedLoader`. Call it before `hydra.main`."""
    hydra._internal.hydra.ConfigLoaderImpl = GuardedLoader  # type: ignore[misc]


def _check_sweep(config: DictConfig) -> None:
    """Raises UserError for a sweep in a file that varies how jobs are started."""
    settings = OmegaConf.to_container(config.settings, resolve=False)
    params = OmegaConf.to_container(config.hydra.sweeper, resolve=False).get("params") or {}  # type: ignore[union-attr]
    for node in (params, *(settings if isinstance(settings, list) else ())):
        for key in node if isinstance(node, Mapping) else ():
            override = OverridesParser.create().parse_override(f"{key}=x")
            if _root(override) in OF_THE_MACHINE:
                raise UserError(f"{key} cannot be varied by a recipe outside conf/: type it on the command line")


def _compose(path: ConfigSearchPath, overrides: list[Override], run_mode: RunMode) -> DictConfig:
    lines = [override.input_line or "" for override in overrides]
    try:
        return ConfigLoaderImpl(path).load_configuration("run", lines, run_mode, validate_sweep_overrides=False)
    except MissingConfigException as error:
        raise UserError(
            f"{' '.join(lines)}: a launcher or sweeper must be an option of conf/ or of a plugin of Hydra; "
            f"{error.missing_cfg_file} is none"
        ) from None


def _is_foreign(provider: str, path: str) -> bool:
    if provider == "main":
        return path.removeprefix("file://") != str(conf_folder())
    return provider == "command-line" or provider.startswith("hydra.searchpath")


def _root(override: Override) -> str:
    return override.key_or_group.strip("/").replace("/", ".").split(".")[0].split("@")[0]


def _is_own(override: Override) -> bool:
    """Returns whether an override chooses a recipe of conf/."""
    chosen = override.value()
    group = override.key_or_group
    return group.startswith("experiments") and (conf_folder() / group / f"{chosen}.yaml").is_file()


def _flat(node: DictConfig) -> dict[str, Any]:
    return flatten(OmegaConf.to_container(node, resolve=False))  # type: ignore[arg-type]


def _within(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _callable_by_hydra() -> set[str]:
    """Returns the targets that conf/ names, those of recipes included, and those of Hydra's plugins."""
    files = [file for depth in ("*", "*/*", "*/*/*") for file in conf_folder().glob(f"{depth}.yaml")]
    named = {name for file in files for name in TARGET.findall(file.read_text(encoding="utf-8"))}
    return named | set(_stored(ConfigStore.instance().repo))


def _stored(node: Any) -> Iterator[str]:
    for inner in node.values():
        if isinstance(inner, Mapping):
            yield from _stored(inner)
        elif OmegaConf.is_dict(inner.node) and (target := inner.node.get("_target_")):
            yield target
