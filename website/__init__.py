"""
The documentation as a site, of README.md, CHANGELOG.md, docs and docstrings: `python -m website FOLDER`.
"""
