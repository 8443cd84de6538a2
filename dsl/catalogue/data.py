"""Diagnostics about data: the settings a spec gives, annotation files, images. Codes E06xx."""

from __future__ import annotations

from detc.dsl.diagnostics import Kind

UNKNOWN_RECORD = Kind(
    "E0601",
    "unknown-record",
    """
A place of a detector's `data` or `schedule` holds a record that training does not know.

Records are data: a spec may declare its own, but only those of `lib/data.det` and `lib/schedules.det` mean something to
`detc train`, and each only in its place.

Wrong:

    data.augment = [Normalize([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])]

Right:

    data.augment = [Resize([640, 640]), RandomFlip()]
""",
)

BAD_SETTING = Kind(
    "E0602",
    "bad-setting",
    """
A setting has the right type and an impossible value.

Wrong:

    data.augment = [RandomFlip(probability = 50.0)]

Right:

    data.augment = [RandomFlip(probability = 0.5)]
""",
)

DATA_MISSING = Kind(
    "E0603",
    "data-missing",
    """
A file or folder that the spec's data names is not there.

Paths of a source are relative to the data's root; the root is relative to the file of the spec. `--data ROOT` on the
command line replaces the root.

Wrong, where the data lies in /data/coco:

    detc train specs/retinanet.det:retinanet_r50_fpn_1x

Right:

    detc train specs/retinanet.det:retinanet_r50_fpn_1x --data /data/coco
""",
)

ANNOTATION_UNREADABLE = Kind(
    "E0604",
    "annotation-unreadable",
    """
An annotation file is not what its source says it is: it is cut off, is not JSON, XML, YAML or an image, lacks a
required entry, has numbers that cannot be (shares of an image outside 0 to 1), declares a document type (never needed,
and a way to exhaust memory), or is larger than any real one.

Wrong, a COCO file without its images:

    {"annotations": [], "categories": []}

Right:

    {"images": [{"id": 1, "file_name": "1.jpg", "width": 640, "height": 480}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 40]}],
     "categories": [{"id": 1, "name": "cat"}]}
""",
)

CLASSES_MISMATCH = Kind(
    "E0605",
    "classes-mismatch",
    """
The class names of the spec and those of the annotations do not fit together, so some class would never be learnt.

Names are matched exactly, capital letters and spaces included; order and ids do not matter. Names that only the
annotations have are left out with a warning, as long as every class of the spec is found. Where labels in YOLO's form
have numbers alone (`file = none`), the spec numbers the classes: a file with names that lies there must then have the
same order, and no label a number beyond it.

Wrong, where the annotations say RBC, WBC and Platelets:

    classes = ["rbc", "wbc", "platelets"]

Right:

    classes = ["RBC", "WBC", "Platelets"]
""",
)

NO_OBJECTS = Kind(
    "E0606",
    "no-objects",
    """
A part of the data has no image, or no image with an object that can be used, so there is nothing to train on or to
evaluate.

Wrong: a Voc source whose list in ImageSets/Main is empty.
Right: a list with one image name a line.
""",
)

IMAGE_MISSING = Kind(
    "E0607",
    "image-missing",
    """
An image that the annotations or the list name is not in its folder.

An evaluation stops here, since its figure would be that of another set; training leaves such images out (E0615).

Wrong: "file_name": "train2017/000000000009.jpg" with `images = "train2017"` (the folder is named twice).
Right: "file_name": "000000000009.jpg" with `images = "train2017"`.
""",
)

IMAGE_UNREADABLE = Kind(
    "E0608",
    "image-unreadable",
    """
A file is no image that OpenCV reads, was cut off on its way, or is larger than detc accepts.

Most libraries fill the missing part of a truncated JPEG with grey and go on, which trains on grey. Training leaves out
the images that it finds to be unreadable beforehand (E0615); an evaluation or prediction stops.

Wrong: a download that broke off.
Right: fetch the file again, or remove it from the annotations.
""",
)

SIZE_DISAGREES = Kind(
    "E0609",
    "size-disagrees",
    """
An image has another width or height than its annotation says, so its boxes may belong to another version of the image.

A photograph that its camera marked as rotated is turned where that makes the sizes agree. Training leaves other images
out (E0615); an evaluation stops.

Wrong: images scaled down after they were annotated.
Right: annotate the images that are used, or scale the boxes with them.
""",
)

BAD_BOX = Kind(
    "E0610",
    "bad-box",
    """
Boxes that are no boxes: with a corner that is not a finite number, with the right side left of the left one, without an
area, or wholly outside the image. They are left out. Boxes that reach over the border are cut there for training.

Wrong: "bbox": [120, 40, 0, 25]
Right: "bbox": [120, 40, 30, 25]
""",
    severity="warning",
)

UNUSED_CLASS = Kind(
    "E0611",
    "unused-class",
    """
The annotations have classes that the spec does not list, whose objects are left out, or the spec lists a class of which
this part of the data has no object. Both may be meant.

Wrong, where dogs are to be found too: classes = ["cat"]
Right: classes = ["cat", "dog"]
""",
    severity="warning",
)

DUPLICATE = Kind(
    "E0612",
    "duplicate",
    """
The same image or the same box is there twice. An image is used once; of equal boxes of one class in one image, training
uses one.

Wrong: a list that names img_07 twice.
Right: each name once.
""",
    severity="warning",
)

DUPLICATE_ID = Kind(
    "E0613",
    "duplicate-id",
    """
Two images or two categories of a COCO file have the same id, so it is not known to which of them the boxes belong.

Wrong: "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
Right: an id of its own for each.
""",
)

PATH_OUTSIDE = Kind(
    "E0614",
    "path-outside",
    """
An annotation names a file outside the folder that its source gives for images. Annotation files come from strangers,
and this could make detc read any file of this machine.

Wrong: "file_name": "../../etc/passwd"
Right: "file_name": "000000000009.jpg"
""",
)

IMAGE_LEFT_OUT = Kind(
    "E0615",
    "image-left-out",
    """
Images that are missing, unreadable, cut off, or of another size than their annotation says are left out of training.
The rest is trained on. An evaluation does not leave images out: it stops.

Wrong: a folder into which only a part of the images was copied.
Right: all images that the annotations name.
""",
    severity="warning",
)

MASKS_MISSING = Kind(
    "E0616",
    "masks-missing",
    """
The detector trains or finds masks, and a source of its data has none.

Pascal VOC's XML files and WIDER FACE's lists have boxes alone. A file in COCO's form has a mask in the "segmentation"
of each annotation: polygons, or run lengths. Labels in YOLO's form have one where a line is a polygon.

Wrong, for a detector with a mask head:

    {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 40], "segmentation": []}

Right:

    {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 40],
     "segmentation": [[10, 10, 60, 10, 60, 50, 10, 50]]}
""",
)

BAD_MASK = Kind(
    "E0617",
    "bad-mask",
    """
Objects whose mask is missing or is none: polygons of an odd number of coordinates, of fewer than three points, with a
coordinate that is not a finite number, or far outside the image; run lengths for an image of another size, that do not
add up to the image, or are damaged; and masks that cover nothing.

A detector with masks is not trained on these objects, and they do not count in the figures of masks. Their boxes count
in the figures of boxes.

Wrong: "segmentation": [[10, 10, 60, 10, 60]]
Right: "segmentation": [[10, 10, 60, 10, 60, 50]]
""",
    severity="warning",
)

PROPOSALS_MISSING = Kind(
    "E0618",
    "proposals-missing",
    """
The detector takes proposals beside the image (Fast R-CNN), and there are none: a source of its data names no file of
them, or it is to predict on images that have none.

Wrong: data = coco_detection()
Right: data = coco_detection(train_proposals = "proposals/train.npz", val_proposals = "proposals/val.npz")
""",
)

PROPOSALS_UNREADABLE = Kind(
    "E0619",
    "proposals-unreadable",
    """
A file of proposals is not what it should be: JSON in the form of COCO results, or an .npz file with the arrays image_id
(R,), bbox (R, 4) as x, y, width, height, and score (R,).

Pickles are not read, though published proposals come as such: reading one can run any code. Make the proposals with the
detector that they came from.

Wrong: Coco("annotations/val.json", "val", proposals = "rpn_r50_fpn_1x_val2017.pkl")
Right: `detc eval specs/rpn.det:rpn_r50_fpn_1x --weights FILE --output rpn`, and proposals = "rpn/proposals.npz"
""",
)

PROPOSALS_MISMATCH = Kind(
    "E0620",
    "proposals-mismatch",
    """
A file of proposals belongs to another data set than the annotations beside it: its image ids are not those of the
annotated images, more than one annotated image in twenty has no proposal, or more than one box in a hundred reaches
over the border of its image.

Wrong: Coco("annotations/instances_train2017.json", "train2017", proposals = "rpn_val2017.npz")
Right: Coco("annotations/instances_val2017.json", "val2017", proposals = "rpn_val2017.npz")
""",
)

IDS_WITH_GAPS = Kind(
    "E0621",
    "ids-with-gaps",
    """
The ids of the categories in a COCO file are not 1, 2, 3 and so on, or are others than in another file of the same data.
COCO's own have gaps.

Nothing is wrong for detc, which matches classes by name and writes results with the file's own ids. Programs that take
an id for a class number train on the wrong classes, or stop with an index out of range.

Wrong, for such programs: "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]
Right: "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
""",
    severity="warning",
)

IMAGE_EMPTY = Kind(
    "E0622",
    "image-empty",
    """
Images without an object that is trained on: none is annotated, or all are crowds, difficult, or of classes that the
spec does not list. They are left out of training unless the spec's data has `keep_empty = true`. An evaluation uses
them: what is found there is wrong.

Wrong, where images without objects are to teach what is none: data = coco_detection()
Right: data = Data(keep_empty = true, ...)
""",
    severity="warning",
)

IMAGE_DAMAGED = Kind(
    "E0623",
    "image-damaged",
    """
An image file has its beginning and its end, and something between is broken. OpenCV fills the rest with what it has, or
with grey, and detc trains on that: only `detc data check --decode`, which decodes every image with a second library as
well, finds such files. Pixels that were changed so that they still decode are found by nobody.

Wrong: a file from a failing disk.
Right: fetch the file again, or remove it from the annotations.
""",
    severity="warning",
)

SPLITS_OVERLAP = Kind(
    "E0624",
    "splits-overlap",
    """
Images that are trained on are evaluated on too, so the figures say how well the detector remembers, not how well it
finds. Some published settings do so; a new one should not.

Wrong: a val.txt whose names are in train.txt as well.
Right: each image in one list.
""",
    severity="warning",
)

DATA_UNRECOGNISED = Kind(
    "E0625",
    "data-unrecognised",
    """
What was given as data is in none of the forms that detc knows by what lies there.

COCO, LVIS, DeepFashion: a JSON file with "images", "annotations" and "categories", or a folder with such files, in it
or in its folder annotations/ or Anno/segmentation/. Pascal VOC: a folder with JPEGImages/, Annotations/ and lists in
ImageSets/Main/. Cityscapes: a folder with leftImg8bit/ and gtFine/. WIDER FACE: a folder with wider_face_split/ and
WIDER_train/. YOLO: a YAML file with "names" and "train" or "val", a folder with one, or folders images/ and labels/.

Wrong: detc data check pets/JPEGImages
Right: detc data check pets
""",
)

IMAGE_UNLISTED = Kind(
    "E0626",
    "image-unlisted",
    """
Images lie in a folder of the data, and no annotation file or list says anything of them. Nothing uses them. Where they
show no object, and are to say so, they belong into the list; otherwise they may have been forgotten.

Lists of LVIS, and lists of images in YOLO's form, are meant to be of a part of the images, and are not compared.

Wrong, where photographs were added to pets/JPEGImages: lists as they were before.
Right: the names of the new ones in pets/ImageSets/Main/train.txt, with annotations.
""",
    severity="warning",
)

AUGMENTATION_FAILED = Kind(
    "E0627",
    "augmentation-failed",
    """
A transform of the Albumentations library does not take one of the training images, or makes of it what no detector
takes, such as one channel. Its parameters are right by themselves; they do not suit the image.

Wrong, where an image is smaller than that:

    data.augment = [Albumentations("RandomCrop", [["height", 2000], ["width", 2000]])]

Right:

    data.augment = [Pad([2000, 2000]), Albumentations("RandomCrop", [["height", 2000], ["width", 2000]])]
""",
)

WORKER_LOST = Kind(
    "E0630",
    "worker-lost",
    """
One of the processes that load images ended before its time. The system ends processes when memory runs out; what a run
had saved is there, and `--resume` goes on from it.

Wrong: detc train mine.det --workers 32, with 16 GiB
Right: detc train mine.det --workers 4
""",
)
