"""The parts of `md_validation.py`: each compares our molecular dynamics with one other authority."""
