int32_t tsn_run_@name(const int8_t *input, int8_t *output)
{
@calls
    return argmax(output, @output_size);
}
