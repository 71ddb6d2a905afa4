"""Where z goes while the model thinks: the convergence study of HRM-Agent (arXiv 2510.22832).

    python -m train.analyse runs/NAME --mazes 1024 --segments 8 --out FOLDER

One episode in each of many mazes, Carry and Reset, plain and with two interventions. After every
segment of every decision but an episode's first: the mean squared distance of z_H and of z_L, at
one token, to four REFERENCES. The decisions are split by whether the doors have just changed the
shortest path. Writes FOLDER/convergence.csv and a figure for each intervention; given that file
in place of a checkpoint, it draws the figures anew.
"""

import csv

from train import cli
from train.analyse import convergence
from train.analyse.convergence import COLUMNS
from train.analyse.study import Analyse, study
from train.config import maze_of, require
from train.files import agents
from train.files.checkpoint import load
from train.files.writing import open_text, replacing
from train.machine.device import choose_device


def main() -> None:
    options = cli.parse(Analyse, __doc__ or "")
    table = options.checkpoint
    if table.suffix != ".csv":
        config, hrm = load(agents.find(options.checkpoint), choose_device(options.device))
        segments = options.segments or config.hrm.segments
        require("segments", segments, segments >= 2, "2 or more, such as --segments 8")
        maze_of(config)  # an agent of another environment ends here, before a folder is made
        table = options.out / "convergence.csv"
        with replacing(table) as part, open_text(part) as file:  # a bad path fails here
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(study(config, hrm, options))
    for path in convergence.draw_all(table, options.out):
        print(path)


if __name__ == "__main__":
    cli.main(main)
