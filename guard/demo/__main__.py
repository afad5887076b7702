"""`python -m guard.demo`: the demo provider by itself, until it is told to stop."""

from guard.demo.serving import main

if __name__ == "__main__":
    main()
