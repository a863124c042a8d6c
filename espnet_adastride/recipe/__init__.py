"""Data, stamps, jobs and logs of the recipe driver ``egs/asr.sh``.

Plain Python: no ESPnet, and torch only inside the functions that resample audio or look
into a model's file. The commands in ``espnet_adastride/bin`` that the driver calls are
thin wrappers of these modules.
"""
