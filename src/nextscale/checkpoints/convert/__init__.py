"""Official weight files to our checkpoint folders and back: ``read`` reads, ``states`` finds what is known in what was
read, one file per system renames, ``files`` writes."""

from nextscale.checkpoints.convert.files import (
    ConversionReport,
    Official,
    check_folder,
    convert_files,
    export_file,
    export_official,
    read_official,
    save_official,
)

__all__ = [
    "ConversionReport",
    "Official",
    "check_folder",
    "convert_files",
    "export_file",
    "export_official",
    "read_official",
    "save_official",
]
