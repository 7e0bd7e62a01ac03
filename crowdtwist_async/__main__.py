"""
`python -m crowdtwist_async`: the `crowdtwist` command.
"""

from crowdtwist_async.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
