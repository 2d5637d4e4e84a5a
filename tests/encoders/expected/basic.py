"""The first encoders: two ViT-B/14, timm's and torchvision's classics, the baselines and the small network."""

from __future__ import annotations

from . import HALF, Expected

VIT_B14_PARAMETERS = (
    768  # CLS
    + 768  # mask token
    + (1 + 37 * 37) * 768  # positions of 518 / 14 patches a side, and of CLS
    + 3 * 14 * 14 * 768
    + 768  # patch embedding
    + 12 * (4 * (768 * 768 + 768) + 2 * 4 * 768 * 768 + 4 * 768 + 768 + 4 * 768 + 2 * 768)  # blocks with layer scale
    + 2 * 768  # last norm
)
NARROW = {
    "arguments": {
        "image_size": 518,
        "patch_size": 14,
        "hidden_size": 48,
        "num_hidden_layers": 12,
        "num_attention_heads": 2,
        "mlp_ratio": 4,
    },
    "poolings": {"cls": 48, "mean": 48},
    "map_channels": (48,) * 5,
}
DINOV2 = "Oquab et al. (counted above); preprocessor_config.json of the repository"
TORCHVISION = "torchvision's model table less the classifier of 1000 classes; timm's pretrained_cfg"

EXPECTED: dict[str, Expected] = {
    "rad-dino": Expected(
        source=DINOV2,
        pooled=768,
        pooling="cls",
        parameters=VIT_B14_PARAMETERS,
        maps=((768, 37),) * 5,
        size=518,
        resize="crop",
        crop="down",
        resize_to=518,
        statistics=((0.5307,) * 3, (0.2583,) * 3),
        prefix_tokens=1,
        small=70,
        narrow=NARROW,
        meta=True,
    ),
    "dinov2-base": Expected(
        source=DINOV2,
        pooled=768,
        pooling="cls",
        parameters=VIT_B14_PARAMETERS,
        maps=((768, 16),) * 5,
        size=224,
        resize="crop",
        crop="down",
        resize_to=256,
        prefix_tokens=1,
        small=70,
        narrow=NARROW,
        meta=True,
    ),
    "resnet50": Expected(
        source=TORCHVISION,
        pooled=2048,
        pooling="gap",
        parameters=25_557_032 - 2048 * 1000 - 1000,
        maps=((256, 56), (512, 28), (1024, 14), (2048, 7)),
        size=224,
        resize="crop",
        resize_to=235,  # floor(224 / .95)
        small=64,
    ),
    "resnet34": Expected(
        source=TORCHVISION,
        pooled=512,
        pooling="gap",
        parameters=21_797_672 - 512 * 1000 - 1000,
        maps=((64, 112), (64, 56), (128, 28), (256, 14), (512, 7)),
        size=224,
        resize="crop",
        resize_to=235,
        small=64,
    ),
    "efficientnet-b4": Expected(
        source=TORCHVISION,
        pooled=1792,
        pooling="gap",
        parameters=19_341_616 - 1792 * 1000 - 1000,
        maps=((24, 160), (32, 80), (56, 40), (160, 20), (448, 10)),
        size=320,
        resize="crop",
        resize_to=365,  # floor(320 / .875)
        small=64,
    ),
    "densenet121": Expected(
        source=TORCHVISION,
        pooled=1024,
        pooling="gap",
        parameters=7_978_856 - 1024 * 1000 - 1000,
        maps=((256, 56), (512, 28), (1024, 14), (1024, 7)),
        size=224,
        resize="crop",
        resize_to=256,  # floor(224 / .875)
        small=64,
    ),
    "vit-small": Expected(
        source="timm's model table, 22,050,664 less the classifier; timm's pretrained_cfg",
        pooled=384,
        pooling="cls",
        parameters=22_050_664 - 384 * 1000 - 1000,
        maps=((384, 14),) * 5,
        size=224,
        resize="crop",
        resize_to=248,  # floor(224 / .9)
        statistics=HALF,
        prefix_tokens=1,
        small=64,
    ),
    "squeezenet1-0.caffe": Expected(
        source="torchvision's model table less the classifier; the Caffe model's mean colour",
        pooled=512,
        pooling="gap",
        parameters=1_248_424 - 512 * 1000 - 1000,
        maps=((256, 56), (512, 28), (512, 14)),
        size=224,
        resize="squash",
        interpolation="bilinear",
        statistics=((123.0, 117.0, 104.0), (1.0,) * 3),
        value_range=(0.0, 255.0),
        small=96,
    ),
    "efficientnet-lite0": Expected(
        source="timm's model table less the classifier; the package's file",
        pooled=1280,
        pooling="gap",
        parameters=4_652_008 - 1280 * 1000 - 1000,
        maps=((24, 56), (40, 28), (112, 14), (320, 7)),
        size=224,
        resize="crop",
        resize_to=256,  # floor(224 / .875)
        statistics=HALF,
        small=64,
    ),
    "light-cnn": Expected(
        source="evalfm's own definition",
        pooled=256,
        pooling="gap",
        parameters=sum(
            9 * inputs * outputs + 2 * outputs for inputs, outputs in ((1, 32), (32, 64), (64, 128), (128, 256))
        ),
        maps=((32, 32), (64, 16), (256, 8)),
        size=64,
        resize="squash",
        interpolation="bilinear",
        statistics=((0.5,), (0.25,)),
        small=28,
    ),
    "pixels": Expected(
        source="evalfm's own definition",
        pooled=16 * 16,
        pooling="dct",
        parameters=0,
        maps=((16, 16),),
        size=256,
        resize="squash",
        interpolation="bilinear",
        statistics=((0.0,), (1.0,)),
    ),
    "hog": Expected(
        source="evalfm's own definition",
        pooled=9 * 8 * 8,
        pooling="grid",
        parameters=0,
        maps=((10, 32),),
        size=256,
        resize="squash",
        interpolation="bilinear",
        statistics=((0.0,), (1.0,)),
    ),
}
