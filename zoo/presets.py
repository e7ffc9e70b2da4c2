"""Named settings of a method, kept as TOML files and read when one is used."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError


class Presets(Mapping[str, Mapping[str, Any]]):
    """The presets of a folder, by name: ``NAME.toml`` holds the settings that differ from the method's defaults.

    Names come in alphabetical order, those that begin with ``paper`` last. A file may begin with ``base = "OTHER"``;
    its settings then override those of ``OTHER.toml`` in the same folder (``"../METHOD/OTHER"``: in the folder of
    another method). ``"none"`` stands for no value.

    Args:
        folder: Folder of the files, for example ``Path(__file__).with_name("presets")``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        """Return the settings of a preset.

        Raises:
            KeyError: There is no such preset.
            ConfigError: The file is not TOML.
        """
        file = self.folder / f"{name}.toml"
        if not file.is_file():
            raise KeyError(name)
        try:
            settings = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"Preset {file} is not TOML: {error}.") from None
        base = settings.pop("base", None)
        if base is None:
            return settings
        from zoo.config import merge  # imported here, since plugins are described without pydantic

        return merge(self[base], settings)

    def __contains__(self, name: object) -> bool:
        return (self.folder / f"{name}.toml").is_file()

    def __iter__(self) -> Iterator[str]:
        names = (file.stem for file in self.folder.glob("*.toml"))
        return iter(sorted(names, key=lambda name: (name.startswith("paper"), name)))

    def __len__(self) -> int:
        return sum(1 for _ in self)
