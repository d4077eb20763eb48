"""The embedded demo: rendered clips of moving coloured shapes."""
