"""Published data sets, read in the layout in which their authors publish them.

`detect` recognizes the layout of a folder, `entries` and `plain_csv` read its tables into entries, `pairing` finds the
files that an entry names, `rows` turns entries into manifest rows, `unused` names tables that were seen and not read,
and `read` puts it all together in `read_layout`.
"""
