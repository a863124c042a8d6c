"""Train classifiers of recordings through ESPnet's task ``cls``, and compare methods.

    python -m espnet_adastride.bin.classify_espnet --corpus /path/to/speech_commands \
        --config conf/train_cls_resnet.yaml \
        --data_config conf/train_speech_commands.yaml --exp exp/espnet \
        --methods strided_conv adastride --seeds 0 --nj 2

``--config`` is an ESPnet training configuration. If its encoder is ``resnet``, the
paper's network, a method sets the strides of that network; otherwise it is the value of
``input_layer``, ``conv2d`` included. Methods have options:
``adastride:sigma_square=1``. ``--data_config`` defines layout, split and features of
the corpus, so that a seed is tested on the same clips as in ``classify``.

A run is a method and a seed: ``espnet2.bin.cls_train``, then ESPnet's inference on
every test clip. Finished runs are kept; interrupted ones resume after their last epoch.

    EXP/data/seedN             train, valid, test: wav.scp, label, utt2spk, shape
    EXP/METHOD_seedN/          training.yaml, train.log, the model
    EXP/records/               a record of every run (experiments/records.py)
    EXP/RESULTS.md             accuracy, intervals, paired tests
    EXP/confusion_METHOD.png   --confusion METHOD
"""

from espnet_adastride.bin.parsers import Parser, add_run_options, command, read_methods
from espnet_adastride.errors import resumable
from espnet_adastride.experiments.classification.espnet_training import train
from espnet_adastride.recipe.espnet_source import named_words
from espnet_adastride.recipe.jobs import Interrupted


def get_parser():
    parser = Parser(__doc__)
    corpus, config = "folder of the corpus", "ESPnet training configuration"
    add_run_options(parser, corpus, config, "strided_conv adastride", "0")
    parser.add_argument(
        "--data_config", help="YAML file with the settings of data and features"
    )
    parser.add_argument(
        "--ngpu",
        type=int,
        choices=(0, 1),
        default=0,
        help="1: one GPU, shared by the runs",
    )
    parser.add_argument(
        "--confusion",
        help="method whose confusions are drawn; default: adastride, if it has runs",
    )
    return parser


@command(get_parser)
def main(args):
    import torch

    from espnet_adastride.experiments.classification.tables import report

    torch.set_num_threads(1)
    stock = named_words("espnet_adastride.plugin.encoders", "ESPNET_WORDS")
    methods, seeds = read_methods(args, needed=["data_config"], others=stock)
    if args.train:
        with resumable(Interrupted):
            train(args, methods, seeds)
    report(args.exp, args.reference, args.confusion)


if __name__ == "__main__":
    main()
