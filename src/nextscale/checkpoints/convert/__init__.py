"""Official weight files to our checkpoint folders and back: ``files`` reads and writes, one further file per system
renames."""

from nextscale.checkpoints.convert.files import ConversionReport, convert_files, export_file, export_official

__all__ = ["ConversionReport", "convert_files", "export_file", "export_official"]
