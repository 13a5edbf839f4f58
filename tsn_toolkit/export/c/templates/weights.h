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

@declarations

#endif
