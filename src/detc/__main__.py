"""python -m detc"""

from detc.cli import main

main()
