"""python -m detc"""

from detc.cli import main

if __name__ == "__main__":  # processes that are spawned import this module again
    main()
