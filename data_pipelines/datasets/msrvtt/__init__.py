"""MSR-VTT: 10,000 web videos with 20 captions each."""
