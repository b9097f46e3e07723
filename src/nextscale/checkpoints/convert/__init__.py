"""Official weight files to our checkpoint folders and back: ``files`` reads and writes, one further file per system
renames."""

from nextscale.checkpoints.convert.files import (
    ConversionReport,
    Official,
    convert_files,
    export_file,
    export_official,
    read_official,
    save_official,
)

__all__ = [
    "ConversionReport",
    "Official",
    "convert_files",
    "export_file",
    "export_official",
    "read_official",
    "save_official",
]
