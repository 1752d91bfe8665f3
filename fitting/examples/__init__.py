"""Example data sets, each with the script that computed it."""
