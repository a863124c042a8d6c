"""ESPnet's ASR model, with the positioning loss in its training loss.

Stats it adds where the input layer has positions (all are watched in train.log and
TensorBoard, and any can be a ``best_model_criterion``):

* ``loss_vp``: the stages' positioning losses, summed, before weighting;
* ``empty_slots``: share of output slots that no input frame is nearest to;
* ``largest_jump``: the largest step between neighbouring frames, in slots. When the
  strides collapse (one frame takes the whole segment) it rises from about 1 to tens.
"""

from espnet_adastride.downsampling import empty_slot_share, largest_jump
from espnet_adastride.plugin.errors import CheckpointMismatchError
from espnet_adastride.plugin.espnet import ESPnetASRModel, force_gatherable
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling


def input_layer(model):
    """Return the model's AdaptiveSubsampling, or None if it has another input layer."""
    layer = getattr(model.encoder, "embed", None)
    return layer if isinstance(layer, AdaptiveSubsampling) else None


class AdaStrideASRModel(ESPnetASRModel):
    """ESPnetASRModel; the same with any input layer that has no positions."""

    def forward(self, speech, speech_lengths, text, text_lengths, **kwargs):
        """Return ESPnetASRModel's (loss, stats, weight), the positioning loss added."""
        loss, stats, weight = super().forward(
            speech, speech_lengths, text, text_lengths, **kwargs
        )
        layer = input_layer(self)
        trace = [] if layer is None else layer.take_trace()
        trace = [stage for stage in trace if stage.aux_loss is not None]
        if not trace:
            return loss, stats, weight
        loss_vp = sum(stage.aux_loss for stage in trace)
        loss = loss + layer.vp_weight * loss_vp
        stats["loss"] = loss.detach()
        stats["loss_vp"] = loss_vp.detach()
        shares = [
            empty_slot_share(stage.positions, stage.input_lengths, stage.output_lengths)
            for stage in trace
        ]
        stats["empty_slots"] = sum(shares) / len(shares)
        stats["largest_jump"] = max(
            largest_jump(stage.positions, stage.input_lengths) for stage in trace
        )
        return force_gatherable((loss, stats, weight), loss.device)

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """Load parameters; refuse a state whose keys do not fit, even if not strict.

        ESPnet loads with ``strict=False`` at inference: missing or renamed keys would
        leave random weights behind without a word. Stock input layers keep ESPnet's
        leniency, but for the keys of the input layer itself. Partial loading goes
        through ``--init_param``; adapters (LoRA) are let through.

        Raises:
            CheckpointMismatchError: with the keys.
        """
        own = self.state_dict()
        if strict or any("lora_" in key for key in own):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        watched = "" if input_layer(self) is not None else "encoder.embed."
        missing = [k for k in own if k not in state_dict and k.startswith(watched)]
        extra = [k for k in state_dict if k not in own and k.startswith(watched)]
        shapes = [
            f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
            for key, value in state_dict.items()
            if key in own and value.shape != own[key].shape
        ]
        problems = [
            f"{kind}: {', '.join(keys)}"
            for kind, keys in (
                ("missing", missing),
                ("not in the model", extra),
                ("of another shape", shapes),
            )
            if keys
        ]
        if problems:
            raise CheckpointMismatchError(
                "the checkpoint does not fit the configured model; use the config.yaml "
                f"it was trained with. Parameters {'; '.join(problems)}"
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)
