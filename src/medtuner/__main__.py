"""`python -m medtuner` does what `medtuner` does."""

from medtuner.cli import main

if __name__ == "__main__":
    main()
