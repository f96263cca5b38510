"""Binaries that turn raw public files into prepared arrays."""
