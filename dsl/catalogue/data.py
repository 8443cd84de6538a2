"""Diagnostics about data: the settings a spec gives, annotation files, images. Codes E06xx."""

from __future__ import annotations

from detc.dsl.diagnostics import Example, Kind

UNKNOWN_RECORD = Kind(
    "E0601",
    "unknown-record",
    "a setting holds a record that training does not know",
    """
A place of a detector's `data` or `schedule` holds a record that training does not know.

Records are data: a spec may declare its own, but only those of `lib/data.det` and `lib/schedules.det` mean something to
`detc train`, and each only in its place.
""",
    wrong=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    data.augment = [Normalize([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])]
}
""",
    ),
    right=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    data.augment = [Resize([640, 640]), RandomFlip()]
}
""",
    ),
)

BAD_SETTING = Kind(
    "E0602",
    "bad-setting",
    "a setting has an impossible value",
    """
A setting has the right type and an impossible value.
""",
    wrong=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    data.augment = [Resize([640, 640]), RandomFlip(probability = 50.0)]
}
""",
    ),
    right=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    data.augment = [Resize([640, 640]), RandomFlip(probability = 0.5)]
}
""",
    ),
)

DATA_MISSING = Kind(
    "E0603",
    "data-missing",
    "a file or folder of the data is not there",
    """
A file or folder that the spec's data names is not there.

Paths of a source are relative to the data's root; the root is relative to the file of the spec. `--data ROOT` on the
command line replaces the root.
""",
    wrong=Example(
        "det",
        'detector mine = retinanet_r50_fpn_1x with { data = voc(["square", "disc"], root = "shape") }',
        "the folder is called shapes",
    ),
    right=Example(
        "det", 'detector mine = retinanet_r50_fpn_1x with { data = voc(["square", "disc"], root = "shapes") }'
    ),
)

ANNOTATION_UNREADABLE = Kind(
    "E0604",
    "annotation-unreadable",
    "an annotation file is not what its source says",
    """
An annotation file is not what its source says it is: it is cut off, is not JSON, XML, YAML or an image, lacks a
required entry, has numbers that cannot be (shares of an image outside 0 to 1), declares a document type (never needed,
and a way to exhaust memory), or is larger than any real one.
""",
    wrong=Example("json", '{"categories": [{"id": "one", "name": "cat"}]}', "an id is a whole number"),
    right=Example("json", '{"categories": [{"id": 1, "name": "cat"}]}'),
)

CLASSES_MISMATCH = Kind(
    "E0605",
    "classes-mismatch",
    "the classes of the spec and of the annotations do not fit together",
    """
The class names of the spec and those of the annotations do not fit together, so some class would never be learnt.

Names are matched exactly, capital letters and spaces included; order and ids do not matter. Names that only the
annotations have are left out with a warning, as long as every class of the spec is found. Where labels in YOLO's form
have numbers alone (`file = none`), the spec numbers the classes: a file with names that lies there must then have the
same order, and no label a number beyond it.
""",
    wrong=Example(
        "det",
        'detector mine = retinanet_r50_fpn_1x with { data = voc(["Square", "Disc"], root = "shapes") }',
        "where the annotations say square and disc",
    ),
    right=Example(
        "det", 'detector mine = retinanet_r50_fpn_1x with { data = voc(["square", "disc"], root = "shapes") }'
    ),
)

NO_OBJECTS = Kind(
    "E0606",
    "no-objects",
    "there is nothing to train on or to evaluate",
    """
A part of the data has no image, or no image with an object that can be used, so there is nothing to train on or to
evaluate.
""",
    wrong=Example("json", '{"annotations": []}'),
    right=Example("json", '{"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}]}'),
)

IMAGE_MISSING = Kind(
    "E0607",
    "image-missing",
    "an image that the annotations name is not in its folder",
    """
An image that the annotations or the list name is not in its folder.

An evaluation stops here, since its figure would be that of another set; training leaves such images out (E0615).
""",
    wrong=Example("json", '{"file_name": "one.png"}', "the file is called 1.png"),
    right=Example("json", '{"file_name": "1.png"}'),
)

IMAGE_UNREADABLE = Kind(
    "E0608",
    "image-unreadable",
    "a file is no image, or was cut off",
    """
A file is no image that OpenCV reads, was cut off on its way, or is larger than detc accepts.

Most libraries fill the missing part of a truncated JPEG with grey and go on, which trains on grey. Training leaves out
the images that it finds to be unreadable beforehand (E0615); an evaluation or prediction stops.
""",
    wrong=Example("json", '{"file_name": "cut.png"}', "a download that broke off"),
    right=Example("json", '{"file_name": "1.png"}'),
)

SIZE_DISAGREES = Kind(
    "E0609",
    "size-disagrees",
    "an image has another size than its annotation says",
    """
An image has another width or height than its annotation says, so its boxes may belong to another version of the image.

A photograph that its camera marked as rotated is turned where that makes the sizes agree. Training leaves other images
out (E0615); an evaluation stops. Annotate the images that are used, or scale the boxes with them.
""",
    wrong=Example("json", '{"file_name": "1.png", "width": 1920, "height": 1080}', "for an image of 96 x 64"),
    right=Example("json", '{"file_name": "1.png", "width": 96, "height": 64}'),
)

BAD_BOX = Kind(
    "E0610",
    "bad-box",
    "a box is no box",
    """
Boxes that are no boxes: with a corner that is not a finite number, with the right side left of the left one, without an
area, or wholly outside the image. They are left out. Boxes that reach over the border are cut there for training.
""",
    wrong=Example("json", '{"bbox": [40, 10, 0, 25]}'),
    right=Example("json", '{"bbox": [40, 10, 30, 25]}'),
    severity="warning",
)

UNUSED_CLASS = Kind(
    "E0611",
    "unused-class",
    "a class is only in the spec or only in the annotations",
    """
The annotations have classes that the spec does not list, whose objects are left out, or the spec lists a class of which
this part of the data has no object. Both may be meant.
""",
    wrong=Example(
        "det",
        'detector mine = retinanet_r50_fpn_1x with { data = voc(["square"], root = "shapes") }',
        "where discs are to be found too",
    ),
    right=Example(
        "det", 'detector mine = retinanet_r50_fpn_1x with { data = voc(["square", "disc"], root = "shapes") }'
    ),
    severity="warning",
)

DUPLICATE = Kind(
    "E0612",
    "duplicate",
    "the same image or box is there twice",
    """
The same image or the same box is there twice. An image is used once; of equal boxes of one class in one image, training
uses one.
""",
    wrong=Example(
        "json",
        """
{"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]},
                 {"id": 2, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}]}
""",
    ),
    right=Example(
        "json",
        """
{"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]},
                 {"id": 2, "image_id": 1, "category_id": 1, "bbox": [50, 10, 20, 20]}]}
""",
    ),
    severity="warning",
)

DUPLICATE_ID = Kind(
    "E0613",
    "duplicate-id",
    "two images or categories have the same id",
    """
Two images or two categories of a COCO file have the same id, so it is not known to which of them the boxes belong.
""",
    wrong=Example("json", '{"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}'),
    right=Example("json", '{"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}'),
)

PATH_OUTSIDE = Kind(
    "E0614",
    "path-outside",
    "an annotation names a file outside its folder",
    """
An annotation names a file outside the folder that its source gives for images. Annotation files come from strangers,
and this could make detc read any file of this machine.
""",
    wrong=Example("json", '{"file_name": "../../etc/passwd"}'),
    right=Example("json", '{"file_name": "1.png"}'),
)

IMAGE_LEFT_OUT = Kind(
    "E0615",
    "image-left-out",
    "images are left out of training",
    """
Images that are missing, unreadable, cut off, or of another size than their annotation says are left out of training.
The rest is trained on. An evaluation does not leave images out: it stops.
""",
    wrong=Example(
        "json",
        """
{"images": [{"id": 1, "file_name": "1.png", "width": 96, "height": 64},
            {"id": 2, "file_name": "2.png", "width": 96, "height": 64}]}
""",
        "where 2.png was not copied",
    ),
    right=Example("json", '{"images": [{"id": 1, "file_name": "1.png", "width": 96, "height": 64}]}'),
    severity="warning",
)

MASKS_MISSING = Kind(
    "E0616",
    "masks-missing",
    "a detector with masks has data without any",
    """
The detector trains or finds masks, and a source of its data has none.

Pascal VOC's XML files and WIDER FACE's lists have boxes alone. A file in COCO's form has a mask in the "segmentation"
of each annotation: polygons, or run lengths. Labels in YOLO's form have one where a line is a polygon.
""",
    wrong=Example(
        "det", 'detector mine = mask_rcnn_r50_fpn_1x with { data = voc(["square", "disc"], root = "shapes") }'
    ),
    right=Example(
        "det",
        """
let shapes = [Coco("annotations.json", "images")]

detector mine = mask_rcnn_r50_fpn_1x with {
    data = Data(["square", "disc"], root = "outlined", train = shapes, val = shapes)
}
""",
    ),
)

BAD_MASK = Kind(
    "E0617",
    "bad-mask",
    "a mask is missing or is none",
    """
Objects whose mask is missing or is none: polygons of an odd number of coordinates, of fewer than three points, with a
coordinate that is not a finite number, or far outside the image; run lengths for an image of another size, that do not
add up to the image, or are damaged; and masks that cover nothing.

A detector with masks is not trained on these objects, and they do not count in the figures of masks. Their boxes count
in the figures of boxes.
""",
    wrong=Example("json", '{"bbox": [10, 10, 50, 40], "segmentation": [[10, 10, 60, 10, 60]]}'),
    right=Example("json", '{"bbox": [10, 10, 50, 40], "segmentation": [[10, 10, 60, 10, 60, 50]]}'),
    severity="warning",
)

PROPOSALS_MISSING = Kind(
    "E0618",
    "proposals-missing",
    "a detector that takes proposals has none",
    """
The detector takes proposals beside the image (Fast R-CNN), and there are none: a source of its data names no file of
them, or it is to predict on images that have none.
""",
    wrong=Example("det", "detector mine = fast_rcnn_r50_fpn_1x with { data = coco_detection() }"),
    right=Example(
        "det",
        """
detector mine = fast_rcnn_r50_fpn_1x with {
    data = coco_detection(train_proposals = "proposals/train.npz", val_proposals = "proposals/val.npz")
}
""",
    ),
)

PROPOSALS_UNREADABLE = Kind(
    "E0619",
    "proposals-unreadable",
    "a file of proposals is not what it should be",
    """
A file of proposals is not what it should be: JSON in the form of COCO results, or an .npz file with the arrays image_id
(R,), bbox (R, 4) as x, y, width, height, and score (R,).

Pickles are not read, though published proposals come as such: reading one can run any code. Make the proposals with the
detector that they came from, as with `detc eval specs/rpn.det:rpn_r50_fpn_1x --weights FILE --output rpn`.
""",
    wrong=Example("det", 'let source = Coco("val.json", "val", proposals = "rpn_r50_fpn_1x_val2017.pkl")'),
    right=Example("det", 'let source = Coco("val.json", "val", proposals = "rpn/proposals.npz")'),
)

PROPOSALS_MISMATCH = Kind(
    "E0620",
    "proposals-mismatch",
    "a file of proposals belongs to another data set",
    """
A file of proposals belongs to another data set than the annotations beside it: its image ids are not those of the
annotated images, more than one annotated image in twenty has no proposal, or more than one box in a hundred reaches
over the border of its image.
""",
    wrong=Example("det", 'let source = Coco("train2017.json", "train2017", proposals = "rpn_val2017.npz")'),
    right=Example("det", 'let source = Coco("val2017.json", "val2017", proposals = "rpn_val2017.npz")'),
)

IDS_WITH_GAPS = Kind(
    "E0621",
    "ids-with-gaps",
    "the ids of the categories have gaps",
    """
The ids of the categories in a COCO file are not 1, 2, 3 and so on, or are others than in another file of the same data.
COCO's own have gaps.

Nothing is wrong for detc, which matches classes by name and writes results with the file's own ids. Programs that take
an id for a class number train on the wrong classes, or stop with an index out of range.
""",
    wrong=Example("json", '{"categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]}', "for such programs"),
    right=Example("json", '{"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}'),
    severity="warning",
)

IMAGE_EMPTY = Kind(
    "E0622",
    "image-empty",
    "images have no object that is trained on",
    """
Images without an object that is trained on: none is annotated, or all are crowds, difficult, or of classes that the
spec does not list. They are left out of training unless the spec's data has `keep_empty = true`. An evaluation uses
them: what is found there is wrong.
""",
    wrong=Example("json", '{"bbox": [10, 10, 50, 40], "iscrowd": 1}', "where the image is to teach what is no object"),
    right=Example("json", '{"bbox": [10, 10, 50, 40], "iscrowd": 0}'),
    severity="warning",
)

IMAGE_DAMAGED = Kind(
    "E0623",
    "image-damaged",
    "an image file is broken in its middle",
    """
An image file has its beginning and its end, and something between is broken. OpenCV fills the rest with what it has, or
with grey, and detc trains on that: only `detc data check --decode`, which decodes every image with a second library as
well, finds such files. Pixels that were changed so that they still decode are found by nobody.
""",
    wrong=Example("text", "a file from a failing disk."),
    right=Example("text", "the file fetched again, or left out of the annotations."),
    severity="warning",
)

SPLITS_OVERLAP = Kind(
    "E0624",
    "splits-overlap",
    "images that are trained on are evaluated on too",
    """
Images that are trained on are evaluated on too, so the figures say how well the detector remembers, not how well it
finds. Some published settings do so; a new one should not.
""",
    wrong=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    data = voc(["square", "disc"], root = "shapes", train = "train", val = "train")
}
""",
    ),
    right=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    data = voc(["square", "disc"], root = "shapes", train = "train", val = "val")
}
""",
    ),
    severity="warning",
)

DATA_UNRECOGNISED = Kind(
    "E0625",
    "data-unrecognised",
    "data is in none of the forms that detc knows",
    """
What was given as data is in none of the forms that detc knows by what lies there.

COCO, LVIS, DeepFashion: a JSON file with "images", "annotations" and "categories", or a folder with such files, in it
or in its folder annotations/ or Anno/segmentation/. Pascal VOC: a folder with JPEGImages/, Annotations/ and lists in
ImageSets/Main/. Cityscapes: a folder with leftImg8bit/ and gtFine/. WIDER FACE: a folder with wider_face_split/ and
WIDER_train/. YOLO: a YAML file with "names" and "train" or "val", a folder with one, or folders images/ and labels/.
""",
    wrong=Example("shell", "detc data check shapes/JPEGImages"),
    right=Example("shell", "detc data check shapes"),
)

IMAGE_UNLISTED = Kind(
    "E0626",
    "image-unlisted",
    "images lie there that no list names",
    """
Images lie in a folder of the data, and no annotation file or list says anything of them. Nothing uses them. Where they
show no object, and are to say so, they belong into the list; otherwise they may have been forgotten.

Lists of LVIS, and lists of images in YOLO's form, are meant to be of a part of the images, and are not compared.
""",
    wrong=Example("text", "photographs were added to pets/JPEGImages, and the lists are as they were."),
    right=Example("text", "the names of the new ones are in pets/ImageSets/Main/train.txt, with annotations."),
    severity="warning",
)

AUGMENTATION_FAILED = Kind(
    "E0627",
    "augmentation-failed",
    "a transform of another library does not take an image",
    """
A transform of the Albumentations library does not take one of the training images, or makes of it what no detector
takes, such as one channel. Its parameters are right by themselves; they do not suit the image.
""",
    wrong=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    data.augment = [Albumentations("RandomCrop", [["height", 2000], ["width", 2000]])]
}
""",
        "where an image is smaller than that",
    ),
    right=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    data.augment = [Pad([2000, 2000]), Albumentations("RandomCrop", [["height", 2000], ["width", 2000]])]
}
""",
    ),
)

WORKER_LOST = Kind(
    "E0630",
    "worker-lost",
    "a process that loads images ended",
    """
One of the processes that load images ended before its time. The system ends processes when memory runs out; what a run
had saved is there, and `--resume` goes on from it.
""",
    wrong=Example("shell", "detc train mine.det --workers 32", "with 16 GiB"),
    right=Example("shell", "detc train mine.det --workers 4"),
)
