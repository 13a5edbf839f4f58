/* Constants of all tasks; an array that several tasks use stands here once. */
#ifndef TSN_WEIGHTS_H
#define TSN_WEIGHTS_H

#include <stdint.h>

/* What a convolution or a pooling reads and writes. */
typedef struct {
    int32_t channels, rows, columns;
    int32_t target_channels, target_rows, target_columns;
    int32_t kernel_rows, kernel_columns;
    int32_t stride_rows, stride_columns;
    int32_t padding_rows, padding_columns;
    int32_t dilation_rows, dilation_columns;
    int32_t groups;
    int32_t source_offset, target_offset;
} tsn_geometry;

/* Which slots of a layer have a value: every one, those whose bit is set, or those behind gaps. */
enum { TSN_EVERY, TSN_BITMAP, TSN_GAPS };

/* Values of some slots of a layer. */
typedef struct tsn_values tsn_values;
struct tsn_values {
    const void *codes;       /* int8 values, or codes of `bits` bits */
    const int8_t *codebook;  /* value of each code; 0: the codes are the values */
    const uint8_t *where;    /* bitmap, or gaps: slots before the value, 255 of them and no value where it is 255 */
    const uint32_t *starts;  /* codes before each row; 0 where every slot has one */
    const tsn_values *under; /* what the other slots hold; 0: 0 */
    int32_t length;          /* slots of one row */
    uint8_t bits, places;
};

/* Weights of one task's layer. */
typedef struct {
    const tsn_values *values;
    const uint16_t *rows;    /* row of each output channel; 0: all in order */
    const uint16_t *columns; /* column of each input channel, ascending; 0: all */
    const uint8_t *used;     /* a bit per weight, 0 where the task uses nothing; 0: all are used */
} tsn_weights;

@declarations

#endif
