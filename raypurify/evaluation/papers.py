"""The figures that papers report, to stand beside ours: accuracy in percent."""

from dataclasses import dataclass

ATTACKS = ("clean", "FGSM-0.08", "FGSM-0.04", "BIM", "DeepFool", "CW")
STRENGTHS = ("clean", "FGSM-0.04", "FGSM-0.08", "FGSM-0.12", "FGSM-0.20", "universal 0.08")
RSFP = "Silva et al., Adaptive Clustering of Robust Semantic Representations for Adversarial Image Purification"


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper: where it is from, its rows by ``columns``, and which row is undefended where the others
    purify."""

    source: str
    rows: dict[str, tuple[float, ...]]
    columns: tuple[str, ...] = ATTACKS
    undefended: str | None = "No defense"


STL = "Sun et al., Adversarial Defense by Stratified Convolutional Sparse Coding"

TABLES = {
    "stl-1": PaperTable(
        f"{STL}, Table 1: CIFAR-10, VGG-16, classifiers retrained on purified images; BIM, DeepFool, CW at 0.03",
        {
            "No defense": (92.98, 58.16, 65.23, 18.03, 17.60, 9.36),
            "MagNet": (92.06, 73.93, 85.52, 77.07, 87.70, 85.94),
            "PixelDefend": (90.41, 83.16, 87.99, 85.15, 88.27, 88.45),
            "STL": (90.02, 85.15, 87.32, 87.54, 88.38, 88.80),
            "STL (cluster)": (90.11, 85.67, 87.15, 88.03, 88.90, 89.04),
        },
    ),
    "stl-4": PaperTable(
        f"{STL}, Table 4: CIFAR-10, VGG-16, BPDA at L∞ 0.031; of others as Athalye et al. found them",
        {
            "SAP": (0.0,),
            "TE": (0.0,),
            "LID": (5.0,),
            "PixelDefend": (9.0,),
            "MagNet": (10.0,),
            "STL": (16.0,),
            "STL (cluster)": (19.0,),
        },
        ("BPDA, L∞ 0.031",),
        None,
    ),
    "stl-5": PaperTable(
        f"{STL}, Table 5: CIFAR-10, VGG-16 as it was; BIM, DeepFool, CW at 0.03",
        {
            "No defense": (92.98, 58.16, 65.23, 18.03, 17.60, 9.36),
            "MagNet": (90.35, 61.45, 65.21, 43.12, 65.35, 48.45),
            "PixelDefend": (85.26, 68.10, 73.29, 77.29, 74.14, 75.79),
            "STL": (82.85, 70.99, 74.87, 74.62, 78.54, 77.65),
            "STL (cluster)": (83.60, 71.03, 75.47, 75.31, 79.59, 79.06),
        },
    ),
    "stl-6-64": PaperTable(
        f"{STL}, Table 6a: ImageNet-10, VGG-16 as it was, 64×64; BIM, DeepFool, CW at 0.03",
        {
            "No defense": (86.65, 28.16, 30.80, 18.83, 8.11, 7.51),
            "TVM": (81.72, 34.03, 47.44, 65.95, 69.43, 68.23),
            "Quilting": (63.18, 45.41, 53.12, 56.96, 54.36, 55.63),
            "Crop-Ens": (55.90, 45.70, 53.28, 53.69, 54.29, 53.20),
            "PD-Ens": (79.46, 33.88, 55.26, 65.68, 69.19, 68.27),
            "STL": (79.25, 54.72, 68.25, 72.45, 75.62, 74.14),
            "STL (cluster)": (80.17, 57.29, 69.14, 72.34, 76.52, 75.21),
        },
    ),
    "stl-6-128": PaperTable(
        f"{STL}, Table 6b: ImageNet-10, VGG-16 as it was, 128×128; BIM, DeepFool, CW at 0.03",
        {
            "No defense": (89.91, 21.23, 24.09, 17.90, 5.84, 5.04),
            "TVM": (85.91, 25.68, 43.86, 65.86, 63.60, 61.29),
            "Quilting": (81.49, 39.03, 58.89, 64.34, 62.42, 59.22),
            "Crop-Ens": (77.30, 46.22, 64.47, 68.76, 70.60, 68.88),
            "PD-Ens": (87.89, 23.33, 42.86, 72.21, 73.59, 72.72),
            "STL": (86.54, 45.52, 64.18, 73.32, 73.08, 72.12),
            "STL (cluster)": (87.59, 47.33, 66.06, 73.23, 73.01, 74.32),
        },
    ),
    "stl-8": PaperTable(
        f"{STL}, Table 8a: CIFAR-10, VGG-16, classifiers retrained on purified images",
        {
            "No defense": (92.98, 65.23, 58.16, 34.12, 20.02, 68.23),
            "Adv Training": (91.58, 90.75, 88.90, 85.58, 77.32, 82.82),
            "STL (cluster)": (90.11, 87.15, 85.67, 82.58, 76.32, 86.42),
        },
        STRENGTHS,
    ),
    "stl-8-64": PaperTable(
        f"{STL}, Table 8b: ImageNet-10, VGG-16, 64×64, classifiers retrained on purified images",
        {
            "No defense": (86.65, 30.80, 28.16, 24.33, 18.87, 33.12),
            "Adv Training": (83.58, 82.60, 79.83, 75.20, 65.76, 67.2),
            "STL (cluster)": (84.21, 80.38, 75.14, 70.21, 64.68, 77.21),
        },
        STRENGTHS,
    ),
    "rsfp-1": PaperTable(
        f"{RSFP}, Table I: CIFAR-10, WRN-32-10, white box; it names neither n nor the settings of the attacks",
        {
            "No defense": (86.36, 27.68, 9.91, 42.50, 30.37),
            "PGDAT+RST (PGDAT)": (79.79, 67.43, 50.74, 62.59, 75.25),
            "PGDAT (PGDAT)": (79.06, 66.74, 50.46, 61.25, 74.69),
            "PGDAT+RST (Random)": (77.36, 66.99, 39.66, 60.52, 73.92),
            "PGDAT (Random)": (75.63, 65.55, 52.26, 57.86, 73.57),
            "PGDAT+RST (Trades)": (87.56, 73.60, 56.30, 75.27, 78.18),
        },
        ("clean", "PGD", "CW", "BIM", "TPGD"),
        None,
    ),
    "rsfp-3": PaperTable(
        f"{RSFP}, Table III: CIFAR-10, VGG-16; the rows of others are STL's Table 5",
        {
            "No defense": (94.23, 58.16, 65.23, 18.03, 17.60, 9.36),
            "MagNet": (90.35, 61.45, 65.21, 43.12, 65.35, 48.45),
            "PixelDefend": (85.26, 68.10, 73.29, 77.29, 74.14, 75.79),
            "STL": (83.60, 71.03, 75.47, 75.31, 79.59, 79.06),
            "RSFP": (94.23, 78.57, 75.00, 76.78, 83.92, 87.50),
        },
    ),
    "rsfp-4-64": PaperTable(
        f"{RSFP}, Table IV: ImageNet-10, VGG-16, 64×64; the rows of others are STL's Table 2a, retrained classifiers",
        {
            "No defense": (86.65, 28.16, 30.80, 18.83, 8.11, 7.51),
            "TVM": (75.55, 59.97, 69.30, 71.56, 72.10, 71.87),
            "Quilting": (77.41, 73.04, 74.18, 76.42, 76.46, 76.62),
            "Crop-Ens": (75.08, 69.68, 72.21, 73.69, 74.01, 73.04),
            "PD-Ens": (82.50, 66.34, 76.07, 79.03, 79.55, 78.13),
            "STL": (84.21, 75.14, 80.38, 81.03, 82.21, 81.22),
            "RSFP": (87.50, 84.37, 78.12, 87.50, 84.37, 81.25),
        },
    ),
    "rsfp-4-128": PaperTable(
        f"{RSFP}, Table IV: ImageNet-10, VGG-16, 128×128; the rows of others are STL's Table 6b, attacked its cluster",
        {
            "No defense": (89.91, 21.23, 24.09, 17.90, 5.84, 5.04),
            "TVM": (85.91, 25.68, 43.86, 65.86, 63.60, 61.29),
            "Quilting": (81.49, 39.03, 58.89, 64.34, 62.42, 59.22),
            "Crop-Ens": (77.30, 46.22, 64.47, 68.76, 70.60, 68.88),
            "PD-Ens": (87.89, 23.33, 42.86, 72.21, 73.59, 72.72),
            "STL": (86.54, 47.33, 66.06, 73.23, 73.01, 74.32),
            "RSFP": (87.50, 87.25, 89.28, 87.50, 90.62, 88.25),
        },
    ),
}


def recovered(clean: float, undefended: float, defended: float) -> float | None:
    """The share of the accuracy lost to an attack that a defence gives back; None where nothing was lost.

    It can be compared between papers whose undefended classifiers differ.

    >>> recovered(94.23, 58.16, 78.57)
    0.5658...
    """
    return (defended - undefended) / (clean - undefended) if clean > undefended else None
