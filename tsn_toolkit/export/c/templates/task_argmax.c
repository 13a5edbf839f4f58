int32_t tsn_argmax_@name(const int8_t *output)
{
    return argmax(output, @size);
}
