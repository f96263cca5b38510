"""What all experiments share: flags, output directory, records, tables, progress."""
