void tsn_softmax_@name(const int8_t *output, int8_t *probabilities)
{
    static const uint32_t powers[32] = {
@powers
    };
    softmax(output, powers, @size, probabilities);
}
