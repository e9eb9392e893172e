r"""The families of pipelines that are read: what stands around a network, as data.

A row says which encoders make which conditions of a prompt, of which shape samples are, what
guidance leads away from, and how the stock pipeline is called so that it asks the network once a
step. The network's own call is a row of `vardiu.nn.diffusers_calls`, what its times mean is its
scheduler's, see `vardiu.teachers.diffusers_schedules`.

Prompts become conditions as in each pipeline's own `encode_prompt`:

=====================  ============================================================================
pipeline               conditions of a prompt
=====================  ============================================================================
StableDiffusion        `text`: the last states of CLIP
StableDiffusionXL      `text`: two CLIPs' last states but one, side by side; `pooled`: the second
                       one's projection; `sizes`
StableDiffusion3       `text`: the same of two CLIPs, widened by zeros, then T5's; `pooled`: both
                       projections. Without T5 its states are zeros
Flux                   `text`: T5's states; `pooled`: CLIP's
PixArtAlpha, -Sigma    `text`, `mask`: T5's states, and which of them count; `sizes` of the large
                       ones of Alpha
Sana                   `text`, `mask`: Gemma's, of an instruction before the prompt
CogVideoX              `text`: T5's states
Wan                    `text`: UMT5's states, zero beyond the prompt
=====================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FAMILIES", "Encoder", "Family", "family_of"]


Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    r"""One encoder of texts, and what is taken of it.

    Arguments:
        classes: The classes of transformers that it may be of.
        part: Its component; the tokenizer's is named likewise.
        states: Which hidden states are taken: -1 the last ones, -2 those before; none for none.
        pooled: The output that is one vector a prompt; empty for none.
        beside: Whether its states stand beside those of the encoder before, in width, and not
            after them, one a token.
        length: The most tokens; none for as many as the tokenizer says.
        masked: Whether it is told which tokens count.
        blank: Whether states of tokens that do not count are zeros.
        optional: Whether a pipeline may come without it; its states are zeros then.
    """

    classes: tuple[str, ...]
    part: str = "text_encoder"
    states: int | None = -1
    pooled: str = ""
    beside: bool = False
    length: int | None = None
    masked: bool = False
    blank: bool = False
    optional: bool = False

    @property
    def tokenizer(self) -> str:
        r"""The component of its tokenizer."""
        return self.part.replace("text_encoder", "tokenizer")


def _square(config: Config) -> object:
    size = config.get("sample_size")
    return size if isinstance(size, list | tuple) else (size, size)


def _frames(config: Config) -> object:
    r"""The frames of latents are padded to whole patches, as the stock pipeline does."""
    frames, ratio = config.get("sample_frames"), config.get("temporal_compression_ratio", 4)
    patch = config.get("patch_size_t") or 1
    if isinstance(frames, int) and isinstance(ratio, int) and isinstance(patch, int):
        frames = -(-((frames - 1) // max(ratio, 1) + 1) // max(patch, 1)) * max(patch, 1)
    return (frames, config.get("sample_height"), config.get("sample_width"))


@dataclass(frozen=True, kw_only=True)
class Family:
    r"""A family of pipelines.

    Arguments:
        pipeline: The stock class that makes samples; empty where several do.
        network: The class of its network.
        fits: Whether a network of that class is of the family, by its configuration.
        encoders: The encoders of texts, in the order in which their parts are joined.
        sizes: Height, width and further sides of a sample, by the network's configuration.
        square: The side of the squares that its call packs into one token, beside the network's
            own patches.
        told_sizes: Of height and width of an image, what `sizes` is; none without.
        lowered: Whether prompts are written small, and without spaces around.
        instructed: Whether the stock pipeline has an instruction to write before prompts.
        blank_negative: The setting of the pipeline that makes an empty negative prompt zeros, and
            no text; empty for none.
        call: What the stock pipeline is told so that it asks the network once a step.
        adapter: What names of an adapter begin with for `load_lora_weights`; empty where the
            pipeline has no such method.
        others: Components that are another network for some of the levels, which is not read.
    """

    pipeline: str
    network: str
    fits: Callable[[Config], bool] = lambda config: True
    encoders: tuple[Encoder, ...] = ()
    sizes: Callable[[Config], object] = _square
    square: int = 1
    told_sizes: Callable[[int, int], tuple[int, ...]] | None = None
    lowered: bool = False
    instructed: bool = False
    blank_negative: str = ""
    call: Mapping[str, Any] = field(default_factory=dict)
    adapter: str = ""
    others: tuple[str, ...] = ("transformer_2",)

    @property
    def parts(self) -> tuple[str, ...]:
        r"""The components of its encoders and their tokenizers."""
        return tuple(name for e in self.encoders for name in (e.part, e.tokenizer))


CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
T5 = ("T5EncoderModel",)
GEMMA = ("Gemma2Model",)


def _is_xl(config: Config) -> bool:
    return config.get("addition_embed_type") == "text_time"


UNGUIDED = {"guidance_scale": 1.0}


ROWS = (
    Family(pipeline="", network="UNet2DModel"),
    Family(
        pipeline="StableDiffusionPipeline",
        network="UNet2DConditionModel",
        fits=lambda config: not _is_xl(config),
        encoders=(Encoder(classes=(*CLIP, *T5)),),
        adapter="unet",
    ),
    Family(
        pipeline="StableDiffusionXLPipeline",
        network="UNet2DConditionModel",
        fits=_is_xl,
        encoders=(
            Encoder(classes=CLIP, states=-2),
            Encoder(
                classes=CLIP[1:],
                part="text_encoder_2",
                states=-2,
                pooled="text_embeds",
                beside=True,
            ),
        ),
        told_sizes=lambda height, width: (height, width, 0, 0, height, width),
        blank_negative="force_zeros_for_empty_prompt",
        adapter="unet",
    ),
    Family(
        pipeline="DiTPipeline",
        network="DiTTransformer2DModel",
        call=UNGUIDED,
    ),
    Family(
        pipeline="PixArtAlphaPipeline",
        network="PixArtTransformer2DModel",
        encoders=(Encoder(classes=T5, length=120, masked=True),),
        told_sizes=lambda height, width: (height, width),
        lowered=True,
        call=UNGUIDED | {"use_resolution_binning": False},
    ),
    Family(
        pipeline="PixArtSigmaPipeline",
        network="PixArtTransformer2DModel",
        encoders=(Encoder(classes=T5, length=300, masked=True),),
        lowered=True,
        call=UNGUIDED | {"use_resolution_binning": False},
    ),
    Family(
        pipeline="StableDiffusion3Pipeline",
        network="SD3Transformer2DModel",
        encoders=(
            Encoder(classes=CLIP[1:], states=-2, pooled="text_embeds"),
            Encoder(
                classes=CLIP[1:],
                part="text_encoder_2",
                states=-2,
                pooled="text_embeds",
                beside=True,
            ),
            Encoder(classes=T5, part="text_encoder_3", length=256, optional=True),
        ),
        call=UNGUIDED,
        adapter="transformer",
    ),
    Family(
        pipeline="FluxPipeline",
        network="FluxTransformer2DModel",
        encoders=(
            Encoder(classes=CLIP[:1], states=None, pooled="pooler_output"),
            Encoder(classes=T5, part="text_encoder_2", length=512),
        ),
        square=2,
        # Of 1,024 pixels: the configuration does not say, and this is the pipeline's own.
        sizes=lambda config: (128, 128),
        adapter="transformer",
    ),
    Family(
        pipeline="SanaPipeline",
        network="SanaTransformer2DModel",
        encoders=(Encoder(classes=GEMMA, length=300, masked=True),),
        lowered=True,
        instructed=True,
        call=UNGUIDED | {"use_resolution_binning": False},
        adapter="transformer",
    ),
    Family(
        pipeline="CogVideoXPipeline",
        network="CogVideoXTransformer3DModel",
        encoders=(Encoder(classes=T5, length=226),),
        sizes=_frames,
        call=UNGUIDED,
        adapter="transformer",
    ),
    Family(
        pipeline="WanPipeline",
        network="WanTransformer3DModel",
        encoders=(
            Encoder(classes=("UMT5EncoderModel", *T5), length=512, masked=True, blank=True),
        ),
        # Of 81 frames of 480 by 832 pixels, the pipeline's own.
        sizes=lambda config: (21, 60, 104),
        call=UNGUIDED,
        adapter="transformer",
    ),
)


FAMILIES: Mapping[str, Family] = {row.pipeline: row for row in ROWS}


def family_of(pipeline: object, network: str, config: Config) -> Family:
    r"""Returns the family of a pipeline; where its class has no row, that of its network.

    Arguments:
        pipeline: The class of the pipeline.
        network: The class of its network, one of `vardiu.nn.diffusers_calls.CLASSES`.
        config: The network's configuration.
    """
    rows = [row for row in ROWS if row.network == network and row.fits(config)]
    return next((row for row in rows if row.pipeline == pipeline), rows[0])
