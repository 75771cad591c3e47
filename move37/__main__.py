"""`python -m move37`."""

from move37.cli.main import run_cli

run_cli()
