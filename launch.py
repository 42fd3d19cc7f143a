"""The command line: python launch.py --config=configs/cub.py [--workdir=DIR] [--mode=MODE].

The same as the command `dcjax` of an installed package; see `dcjax/modes/command_line.py`.
"""

from dcjax.modes import command_line

if __name__ == "__main__":
    command_line.run()
