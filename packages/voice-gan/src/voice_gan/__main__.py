"""`python -m voice_gan`, which is what torchrun starts."""

from voice_gan.cli import main

main()
